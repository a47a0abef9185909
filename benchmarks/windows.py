"""What a pass over m places costs, which checking a window of drafts and reading a prefix are, beside a pass over one.

    python benchmarks/windows.py [size=B] [precision=fp32,mixed] [batch=1,8] [places=1,2,4,8,16,32,64,256] [rounds=5]

LlamaGen's network of a published size with random weights, guided, so of twice as many rows; half of its 256 codes are
decoded, or as many as leave room. A window of m places saves time where its pass decodes more codes than it takes times
the seconds of one place: the column "pays from". The last column says the same of an image: so many of its 256 passes
must go. The least possible time is the larger of bytes / reading speed and operations / speed of products, both
measured in the same run; the bytes are weights, keys and values. Windows take turns. Run it alone: one competing
process slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from measure import interleaved, limits, medians, table
from passes import Machine, Passes, Work

from pointillist.configs.options import load, option, parse, run
from pointillist.training.precision import cast
from pointillist.zoo.zoo import random

CODES = 256
HEAD = ["places", "ms a pass", "ms a place", "least possible, ms", "bound by", "of the limit",
        "pays from, codes a pass", f"of {CODES} passes to save"]  # fmt: skip


@dataclass
class Benchmark:
    size: str = option("B", "of LlamaGen's published ones at 256 pixels: B | L")
    precision: str = option("fp32,mixed", "as sample.py's")
    batch: str = option("1,8", "images decoded together")
    places: str = option("1,2,4,8,16,32,64,256", "of a pass; 1 is always there")
    rounds: int = option(5, "turns of each window; the median counts")


def compare(network: torch.nn.Module, batch: int, places: list[int], rounds: int) -> str:
    """The table of one batch size."""
    passes, machine = Passes(network, batch), Machine.of(network)
    start = {m: min(CODES // 2, CODES - m) for m in places}
    calls = {str(m): (lambda m=m: passes.query(start[m], m)) for m in places}
    rows, middle = [], medians(interleaved(calls, rounds))
    for m in places:
        seconds, cost = middle[str(m)], middle[str(m)] / middle["1"]
        least, bound = Work.of(network, 2 * batch, m, start[m]).least(machine)
        cells = [f"{1e3 * seconds:.1f}", f"{1e3 * seconds / m:.2f}", f"{1e3 * least:.1f}", bound]
        pays = [f"{cost:.2f}", f"{CODES * (1 - 1 / cost):.0f}" if cost > 1 else "0"] if cost < m else ["never", "-"]
        rows.append([str(m), *cells, f"{least / seconds:.0%}", *(pays if m > 1 else ["-", "-"])])
    return table(HEAD, rows)


@torch.inference_mode()
def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    places = sorted({1, *map(int, o.places.split(","))})
    if not 1 <= places[0] <= places[-1] <= CODES:
        raise ValueError(f"places={o.places} must lie between 1 and the {CODES} codes of an image")
    print(limits())
    for precision in o.precision.split(","):
        for batch in map(int, o.batch.split(",")):
            network, _ = random(f"llamagen-{o.size.lower()}-256")
            cast(network, precision, torch.device("cpu"), rows=2 * batch)
            print(f"\n{o.size}, {precision}, batch {batch}\n", compare(network, batch, places, o.rounds), sep="\n",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    run(main)
