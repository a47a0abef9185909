"""What the benchmarks share: contenders that take turns, the machine's limits, peak memory, Markdown tables."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call; work that a GPU still has to do counts."""
    finish()
    begin = time.perf_counter()
    call()
    finish()
    return time.perf_counter() - begin


def finish() -> None:
    """Wait for the GPU, if this process has used one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of `rounds` calls of each contender. They take turns, so that a slow minute of the machine hits all of
    them; each is called `warm` times before, unmeasured."""
    for _ in range(warm):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(found) for name, found in seconds.items()}


# ------------------------------------------------------------------------------------------------------------- limits


def bandwidth() -> float:
    """GB/s of reading 512 MB, best of 8."""
    x = torch.ones(128 * 1024 * 1024)
    return x.nbytes / best(lambda: x.sum()) / 1e9


def gemm(dtype: torch.dtype, m: int = 2048, n: int = 2048, k: int = 2048) -> float:
    """GFLOP/s of a product [m, k] x [k, n], best of 8."""
    x, y = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    return 2 * m * n * k / best(lambda: x @ y) / 1e9


def best(call: Callable[[], Any], rounds: int = 8) -> float:
    """Seconds of the fastest of several calls."""
    return min(interleaved({"": call}, rounds)[""])


def limits() -> str:
    """One line on this machine: what it reads a second and multiplies a second, with how many threads."""
    return (
        f"limits: reading {bandwidth():.0f} GB/s, products {gemm(torch.float32):.0f} GFLOP/s in fp32, "
        f"{gemm(torch.bfloat16):.0f} in bf16; {torch.get_num_threads()} threads; {processor()}"
    )


def processor() -> str:
    """Its name, or the architecture where the system does not tell."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# ------------------------------------------------------------------------------------------------------------- memory


def peak_memory() -> float:
    """GB: this process's peak resident set or, once it has used a GPU, the peak of what it allocated there."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a process that was started by a large one begins with the large one's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a fresh process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# -------------------------------------------------------------------------------------------------------------- tables


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])
