"""A generator's training step, and its attention alone, under each backend that this machine can run, in one process.

    python benchmarks/train_step.py [size=micro] [places=64] [batch=64] [rounds=5]

Backends take turns, round by round; the figures are medians and ratios to sdpa. Run it alone: one competing process
slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import torch

from pointillist import CodeSpec
from pointillist.configs.options import load, parse, run
from pointillist.models.generator import Generator, Options
from pointillist.models.units import token
from pointillist.training.optimization import keep_freed_memory


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
    if device.type == "cpu":
        keep_freed_memory()  # as train.py does
    steps, attention = {}, {}
    for backend in ["sdpa", "matmul"] + (["flex", "xformers"] if device.type == "cuda" else []):
        model = Generator(Options(size=options.size, attention=backend), spec, token.plan(spec, token.Options()), 9)
        steps[backend] = stepper(model.to(device), codes, cond)
        attention[backend] = attender(model, options.batch, device)
    print(f"{options.size}, {spec.length} places, batch {options.batch}, bf16 on {device}")
    for what, run_once in (("step", steps), ("attention, forward and backward", attention)):
        median = medians(run_once, options.rounds)
        for name, value in median.items():
            print(f"{what:<32} {name:<9} {value * 1e3:8.1f} ms   {median['sdpa'] / value:5.2f} x sdpa")


def medians(run_once: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of each, taking turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in run_once}
    for _ in range(rounds + 1):
        for name, go in run_once.items():
            begin = time.perf_counter()
            go()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def attender(model: Generator, batch: int, device: torch.device) -> Callable[[], None]:
    shape = model.transformer.shape
    size = (batch, model.plan.length, shape.num_heads, shape.head_dim)
    q, k, v = (torch.randn(size, device=device).bfloat16().transpose(1, 2).requires_grad_() for _ in range(3))
    attend = model.layout.attend(device)

    def go() -> None:
        attend(q, k, v).float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return go


def stepper(model: Generator, codes: torch.Tensor, cond: torch.Tensor) -> Callable[[], None]:
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
