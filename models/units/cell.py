"""next-cell: a square of neighbouring codes at a time, in parallel; cells in raster order (xAR's cell, discrete)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointillist import CodeSpec
from pointillist.models.plan import Plan, divides, grouped, plane, positions


@dataclass
class Options:
    name: str = "cell"
    size: int = 2  # side of a cell, in codes


def plan(spec: CodeSpec, options: Options) -> Plan:
    """Equal groups of codes; raises ValueError for codes that do not lie on one plane or do not divide."""
    height, width = plane(spec, "cell")
    size = divides(options.size, height, width)
    grid = torch.arange(height * width).view(height // size, size, width // size, size)
    return grouped(grid.transpose(1, 2).reshape(-1, size * size), positions(spec))
