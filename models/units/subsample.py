"""next-subsample: size x size codes far from one another at a time, one from each region, in parallel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointillist import CodeSpec
from pointillist.models.plan import Plan, divides, grouped, plane, positions


@dataclass
class Options:
    name: str = "subsample"
    size: int = 2  # regions along each side


def plan(spec: CodeSpec, options: Options) -> Plan:
    """Equal groups of codes; raises ValueError for codes that do not lie on one plane or do not divide."""
    height, width = plane(spec, "subsample")
    size = divides(options.size, height, width)
    grid = torch.arange(height * width).view(size, height // size, size, width // size)
    return grouped(grid.permute(1, 3, 0, 2).reshape(-1, size * size), positions(spec))
