"""next-line: a row (or column) of codes at a time, its codes in parallel given the rows before."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointillist import CodeSpec
from pointillist.models.plan import Plan, grouped, plane, positions


@dataclass
class Options:
    name: str = "line"
    columns: bool = False  # columns instead of rows


def plan(spec: CodeSpec, options: Options) -> Plan:
    """Equal groups of codes; raises ValueError for codes that do not lie on one plane."""
    height, width = plane(spec, "line")
    grid = torch.arange(height * width).view(height, width)
    return grouped(grid.T if options.columns else grid, positions(spec))
