"""What the CPU at hand is good at, as measured on two kinds (benchmarks/decode.py). Rules, not timings: the same
processor always computes the same numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

ROWS = 4  # from which on oneDNN's packed float32 products are the faster ones everywhere


def packs_fp32(rows: int) -> bool:
    """Whether float32 products of so many rows are faster packed: from four rows on, and with fewer wherever the other
    kernels, MKL's, are not on the processors that they are made for."""
    return rows >= ROWS or not is_intel()


def least_rows() -> int:
    """Rows of a packed product that cost no more than fewer: AMD's processors take longer for two than for four."""
    return 1 if is_intel() else ROWS


def attends_in_bf16() -> bool:
    """Whether attention of a few queries is faster in bfloat16: with AMX three times, without it five times slower."""
    return "amx_bf16" in _about()


def is_intel() -> bool:
    return "GenuineIntel" in _about()


@cache
def _about() -> frozenset[str]:
    """Words of the first processor's description: its maker and its abilities; none where Linux does not tell."""
    file = Path("/proc/cpuinfo")
    return frozenset(file.read_text(encoding="utf-8").partition("\n\n")[0].split()) if file.is_file() else frozenset()
