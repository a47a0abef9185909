"""PAR (Wang et al., arXiv 2412.15119): the first code of each region one by one, then one code of every region at once.

The plane is cut into regions; a code's group is its offset inside its region. The sequence is [cond, v_1 .. v_n,
M_1 .. M_{n-1}, v_{n+1} ..]: after the first n codes learned transition tokens fill the group, and from there each group
predicts the next. Condition and transition tokens have the zero rotation, as in the published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch

from pointillist import CodeSpec
from pointillist.models.plan import COND, LEARNED, Plan, divides, plane, positions


@dataclass
class Options:
    name: str = "par"
    regions: int = 4  # n, a square number; 4 and 16 are published

    def __post_init__(self) -> None:
        if self.regions < 1 or isqrt(self.regions) ** 2 != self.regions:
            raise ValueError(f"unit.regions must be a square number such as 4 or 16, got {self.regions}")


def plan(spec: CodeSpec, options: Options) -> Plan:
    """L = N places, n + (N - n) / n steps. Raises ValueError where the regions do not divide the plane."""
    (height, width), n = plane(spec, "par"), options.regions
    side = divides(isqrt(n), height, width, "the root of unit.regions")
    order = torch.arange(spec.length).view(side, height // side, side, width // side).permute(1, 3, 0, 2).flatten()
    place = torch.arange(spec.length)
    before = torch.where(place <= n, place - 1, place - n).clamp_min(0)  # whose code a place reads, in this order
    learned = (place > n) & (place < 2 * n)
    reads = torch.where(learned, LEARNED - (place - n - 1), order[before])
    reads[0] = COND
    return Plan(
        reads=reads[:, None],
        predicts=order[:, None],
        at=reads.clamp_min(-1),
        grid=positions(spec),
        step=torch.where(place < n, place, n + (place - n) // n),
    )
