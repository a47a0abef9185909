"""How seconds and memory grow with the length of the sequence, the batch and the network: a table and one figure.

    python benchmarks/growth.py [sizes=micro,small,B,L] [lengths=64,256,1024,4096] [batches=1,4,16,64] [train=small,B]

LlamaGen's network with random weights, 16,384 codes, guidance 4. Lengths are measured with one image, batches with 256
codes, training with as many images a step as make the longest sequence's codes. Every point is a fresh process, whose
peak memory is its own; imports are 0.4 GB of it.

An image is not drawn whole: single steps are timed at the middles of equal parts of the sequence. A step costs the same
everywhere but for attention, which grows in proportion to the codes before it, so the mean over the parts times the
length is an image's time. That is checked on the first size and length, whose image is drawn whole as well.

Three bends are computed, not measured. From some length on keys and values are more bytes than the weights: until there
a step costs the same at any length, behind it an image's seconds grow with the square. From some batch on products take
longer than reading the weights: until there more images are free, behind it none are. In training attention, between
all pairs of codes, takes more operations than the matrices from some length on. Run it alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from statistics import median
from typing import Any

import torch
from growth_figure import draw
from measure import alone, bandwidth, gemm, limits, peak_memory, table, timed
from passes import Machine, Passes, Work

from pointillist import CodeSpec
from pointillist.configs.options import load, option, parse, run
from pointillist.models.generator import Generator, Options
from pointillist.models.units import token
from pointillist.sampling import ancestral
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.memory import keep_freed_memory
from pointillist.training.optimization import Optimization, make_optimizer
from pointillist.training.precision import cast

VOCAB, CLASSES, USUAL = 16384, 1000, 256  # USUAL: codes of an image where the batch grows


@dataclass
class Benchmark:
    sizes: str = option("micro,small,B,L", "of models/transformer.py")
    lengths: str = option("64,256,1024,4096", "codes of an image, square numbers")
    batches: str = option("1,4,16,64", "images decoded together")
    train: str = option("small,B", "sizes to train")
    precision: str = option("mixed", "of decoding, as sample.py's; training is in bf16 autocast")
    positions: int = option(4, "at which steps are timed")
    figure: str = option("docs/growth.png", "where to draw; nothing: only the table")


@dataclass
class Point:
    """Seconds of a batch's decoding or of a step of training, GB at most; bends as they are above."""

    kind: str  # length | batch | training
    size: str
    length: int
    batch: int
    seconds: float
    memory: float
    least: float = float("nan")  # seconds that the machine's limits allow
    long_from: float = float("nan")  # codes; of training those of attention
    full_from: float = float("nan")  # images


# ------------------------------------------------------------------------------------------------- a process of a point


def network_of(size: str, length: int) -> Generator:
    side = isqrt(length)
    if side * side != length:
        raise ValueError(f"lengths are of square grids, got {length}; choose 64, 256, 1024 or 4096")
    keep_freed_memory()  # as train.py and sample.py do
    torch.manual_seed(0)
    spec = CodeSpec(grids=((side, side),), vocab=(VOCAB,), channels=8)
    return Generator(Options(size=size), spec, token.plan(spec, token.Options()), CLASSES)


def frozen(size: str, length: int, batch: int, precision: str) -> Generator:
    network = network_of(size, length).eval().requires_grad_(False)
    cast(network, precision, torch.device("cpu"), rows=2 * batch)
    return network


@torch.inference_mode()
def decoding(kind: str, size: str, length: int, batch: int, o: Benchmark, machine: Machine) -> Point:
    network = frozen(size, length, batch, o.precision)
    seconds, least = image_seconds(Passes(network, batch), o.positions), 0.0
    for position in middles(length, o.positions):
        least += Work.of(network, 2 * batch, 1, position).least(machine)[0] * length / o.positions
    one = Work.of(network, 2, 1, 0)  # a guided image
    long_from = one.weights / one.cached
    full_from = (one.weights / machine.bytes) / (one.products / machine.operations)
    return Point(kind, size, length, batch, seconds, peak_memory(), least, long_from, full_from)


def middles(length: int, parts: int) -> list[int]:
    """Of equal parts of the positions 0..length-1."""
    return [int((i + 0.5) * length / parts) for i in range(parts)]


def image_seconds(passes: Passes, parts: int) -> float:
    """A whole image's seconds from those of single steps, each after one that warms up."""
    found = []
    for position in middles(passes.slots.shape[1], parts):
        passes.step(position)
        found.append(median(timed(lambda at=position: passes.step(at)) for _ in range(3)))
    return sum(found) / parts * passes.slots.shape[1]


@torch.inference_mode()
def check(size: str, length: int, o: Benchmark) -> tuple[float, float]:
    """Seconds of an image from single steps, and drawn whole: of three turns the median."""
    network = frozen(size, length, 1, o.precision)
    passes, images = Passes(network, 1), torch.zeros(1, dtype=torch.long)
    found = []
    for _ in range(3):
        whole = timed(lambda: ancestral.sample(passes.law, images, Noise(0), images, Trace(), ancestral.Options()))
        found.append((image_seconds(passes, 8), whole))
    return median(x for x, _ in found), median(y for _, y in found)


def training(size: str, length: int, batch: int) -> Point:
    """The second of two steps: the first one makes the optimiser's state."""
    network = network_of(size, length).train()
    optimizer = make_optimizer(network, Optimization())
    codes, cond = torch.randint(VOCAB, (batch, length)), torch.randint(CLASSES, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = network.loss(codes, cond)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    work = Work.of(network, 1, length, 0)
    even = length * work.products / work.attention
    return Point("training", size, length, batch, timed(step), peak_memory(), long_from=even)


# ----------------------------------------------------------------------------------------------------------------- run


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    sizes, lengths, batches = o.sizes.split(","), *(sorted(map(int, x.split(","))) for x in (o.lengths, o.batches))
    print(limits())
    dtype = {"mixed": torch.bfloat16, "bf16": torch.bfloat16}.get(o.precision, torch.float32)
    machine = Machine(bandwidth() * 1e9, gemm(dtype) * 1e9)
    guessed, whole = alone(check, sizes[0], lengths[0], o)
    print(
        f"{sizes[0]}, {lengths[0]} codes: an image takes {whole:.3f} s, {guessed / whole - 1:+.1%} from single steps\n"
    )
    jobs: list[tuple[Any, ...]] = [(decoding, "length", s, n, 1, o, machine) for s in sizes for n in lengths]
    jobs += [(decoding, "batch", s, USUAL, b, o, machine) for s in sizes for b in batches]
    jobs += [(training, s, n, max(lengths) // n) for s in filter(None, o.train.split(",")) for n in lengths]
    points: list[Point] = []
    for job in jobs:
        before = points[-1].kind if points else ""
        points.append(alone(*job))
        lines = row(points[-1]).splitlines()
        print("\n".join(lines[-1:] if before == points[-1].kind else ["", *lines]), flush=True)
    print("\n" + notes(points))
    if o.figure:
        draw([asdict(point) for point in points], Path(o.figure))
        print(f"\n{o.figure}")


def row(p: Point) -> str:
    """A line of the table, under a head."""
    codes, share = p.length * p.batch, "-" if p.kind == "training" else f"{p.least / p.seconds:.0%}"
    what = "step of training" if p.kind == "training" else "batch"
    head = [p.kind, "size", "codes", "images", f"s a {what}", "ms a code", "codes/s", "peak GB", "of the limit"]
    cells = [p.kind, p.size, str(p.length), str(p.batch), f"{p.seconds:.3g}", f"{1e3 * p.seconds / codes:.3g}"]
    return table(head, [[*cells, f"{codes / p.seconds:.0f}", f"{p.memory:.2f}", share]])


def notes(points: list[Point]) -> str:
    """Where the curves bend, and why."""
    decoded = {p.size: p for p in points if p.kind != "training"}
    trained = {p.size: p for p in points if p.kind == "training"}
    lines = ["Bends, from the networks' sizes and this machine's limits:"]
    lines += [
        f"- {size}: keys and values of one guided image outweigh the weights from {p.long_from:,.0f} codes on (of b "
        f"images from a b-th of them); products take longer than reading the weights from {p.full_from:.1f} images on"
        for size, p in decoded.items()
    ]
    lines += [
        f"- {size}, training: attention takes more operations than the matrices from {p.long_from:,.0f} codes on"
        for size, p in trained.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
