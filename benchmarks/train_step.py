"""Ratio of a generator's training step under each attention backend that this machine can run, in one process.

    python benchmarks/train_step.py [size=micro] [places=64] [batch=64] [rounds=5]

Backends take turns, round by round; the figures are medians and ratios to sdpa. Run it alone: one competing process
slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from math import isqrt

import torch

from pointillist import CodeSpec
from pointillist.configs.options import load, parse, run
from pointillist.models.generator import Generator, Options
from pointillist.models.units import token


@dataclass
class Benchmark:
    size: str = "micro"
    places: int = 64
    batch: int = 64
    rounds: int = 5


def main(argv: list[str]) -> None:
    command = parse(argv, __doc__, Benchmark, target=False)
    options = load(Benchmark, None, command.words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = isqrt(options.places)
    spec = CodeSpec(grids=((side, options.places // side),), vocab=(1000,), channels=4)
    codes = torch.randint(1000, (options.batch, spec.length), device=device)
    cond = torch.randint(9, (options.batch,), device=device)
    steps = {}
    for backend in ["sdpa", "matmul"] + (["flex", "xformers"] if device.type == "cuda" else []):
        model = Generator(Options(size=options.size, attention=backend), spec, token.plan(spec, token.Options()), 9)
        steps[backend] = stepper(model.to(device), codes, cond)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print(f"{options.size}, {spec.length} places, batch {options.batch}, bf16 autocast on {device}")
    for name, value in median.items():
        print(f"{name:<9} {value * 1e3:8.1f} ms a step   {median['sdpa'] / value:5.2f} x sdpa")


def stepper(model: Generator, codes: torch.Tensor, cond: torch.Tensor):
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast(codes.device.type, torch.bfloat16):
            loss = model.loss(codes, cond)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if codes.is_cuda:
            torch.cuda.synchronize()

    return step


if __name__ == "__main__":
    run(main)
