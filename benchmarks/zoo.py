"""Seconds and memory of one image from published networks at their real sizes, with random weights.

    python benchmarks/zoo.py [names=llamagen-b-256,var-d16,randar-l,par-xl-4x] [precision=fp32,bf16] [images=1]

Each network is drawn by the recipe of its published row (configs/imagenet), alone in a fresh process, so that its peak
memory is its own. Run it alone: one competing process slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from pointillist.configs.options import load, parse, run
from pointillist.configs.recipes import read_recipe, recipes
from pointillist.models.linear import sizes_of
from pointillist.sampling.trace import Trace
from pointillist.training.jobs import codes_of, images_of, prepare_one
from pointillist.training.models import RANDOM
from pointillist.training.request import Request


@dataclass
class Benchmark:
    names: str = "llamagen-b-256,var-d16,randar-l,par-xl-4x"  # rows of configs/imagenet
    precision: str = "fp32"  # of the network; several with commas
    images: int = 1  # drawn together


def measure(name: str, precision: str, images: int) -> str:
    """A row of the table."""
    words = [
        *read_recipe(recipes()[name]).words(),
        f"weights={RANDOM}",
        f"precision={precision}",
        f"num_images={images}",
    ]
    begin = time.perf_counter()
    job, trace = prepare_one(load(Request, None, words)), Trace()
    opened = time.perf_counter()
    codes = codes_of(job, torch.arange(images), trace)
    drawn = time.perf_counter()
    images_of(job, codes)
    decoded = time.perf_counter()
    size = sum(sizes_of(job.models.generator).values()) / 1e6
    passes, streams = f"{trace.summary()['nfe_per_image']:g}", job.law.streams
    seconds = (opened - begin, drawn - opened, decoded - drawn)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    cells = [
        f"`{name}`",
        precision,
        f"{size:,.0f} M",
        f"{passes} x {streams}",
        *(f"{s:.1f}" for s in seconds),
        f"{peak:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> None:
    options = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    print("| row | precision | parameters | passes x rows | open, s | codes, s | pixels, s | peak, GB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.names.split(","):
        for precision in options.precision.split(","):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                print(alone.submit(measure, name, precision, options.images).result(), flush=True)


if __name__ == "__main__":
    run(main)
