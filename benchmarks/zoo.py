"""Seconds and memory of one image from published networks at their real sizes, with random weights.

    python benchmarks/zoo.py [names=llamagen-b-256,var-d16,randar-l,par-xl-4x] [precision=fp32,bf16] [images=1]
    python benchmarks/zoo.py peer=VAR [names=var-d16] [precision=fp32,mixed,bf16] [images=1] [rounds=3]

Each network is drawn by the recipe of its published row (configs/imagenet), alone in a fresh process, so that its peak
memory is its own. With peer, a checkout of FoundationVision/VAR, one of VAR's rows is drawn beside their own
autoregressive_infer_cfg: the same weights and recipe, taking turns in one process, codes and pixels apart; theirs in
fp32 and under their demonstration's autocast (bf16 on a CPU), our pixels in bf16 where our codes are not in fp32. Run
it alone: one competing process slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from measure import alone, limits, peak_memory, table

from pointillist.configs.options import load, option, parse, run
from pointillist.configs.recipes import read_recipe, recipes
from pointillist.models.linear import sizes_of
from pointillist.sampling.trace import Trace
from pointillist.training.jobs import codes_of, images_of, prepare_one
from pointillist.training.models import RANDOM
from pointillist.training.request import Request

USUAL = "llamagen-b-256,var-d16,randar-l,par-xl-4x"
HEAD = ["row", "precision", "parameters", "passes x rows", "open, s", "codes, s", "pixels, s", "peak, GB"]


@dataclass
class Benchmark:
    names: str = option("", f"rows of configs/imagenet; default: {USUAL}; beside a peer var-d16")
    precision: str = option("", "of the network; default: fp32; beside a peer fp32,mixed,bf16")
    images: int = option(1, "drawn together")
    peer: str = option("", "folder of a VAR checkout")
    rounds: int = option(3, "turns of each contender beside a peer; the median counts")


def request(name: str, *words: str) -> Request:
    """What sample.py is asked for by a published row."""
    return load(Request, None, [*read_recipe(recipes()[name]).words(), f"weights={RANDOM}", *words])


def row_of(name: str, precision: str, images: int) -> list[str]:
    """A row of the table."""
    asked = request(name, f"precision={precision}", f"num_images={images}")
    begin = time.perf_counter()
    job, trace = prepare_one(asked), Trace()
    opened = time.perf_counter()
    codes = codes_of(job, torch.arange(images), trace)
    drawn = time.perf_counter()
    images_of(job, codes)
    decoded = time.perf_counter()
    size = sum(sizes_of(job.models.generator).values()) / 1e6
    passes, streams = f"{trace.summary()['nfe_per_image']:g}", job.law.streams
    seconds = (opened - begin, drawn - opened, decoded - drawn)
    return [
        f"`{name}`",
        precision,
        f"{size:,.0f} M",
        f"{passes} x {streams}",
        *(f"{s:.1f}" for s in seconds),
        f"{peak_memory():.1f}",
    ]


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    print(limits())
    if o.peer:
        from beside_var import compare

        for name in (o.names or "var-d16").split(","):
            compare(o.peer, name, request(name), (o.precision or "fp32,mixed,bf16").split(","), o.images, o.rounds)
        return
    print(table(HEAD, []))
    for name in (o.names or USUAL).split(","):
        for precision in (o.precision or "fp32").split(","):
            row = alone(row_of, name, precision, o.images)
            print(table(HEAD, [row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    run(main)
