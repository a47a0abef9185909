"""next-token: one code at a time in a fixed scan order (LlamaGen, arXiv 2406.06525: raster).

The sequence is [cond, x_1 .. x_{N-1}], each place predicting the next code; a place carries the rotary position of the
code it reads, and the condition the zero rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.models.plan import COND, Plan


@dataclass
class Options:
    name: str = "token"


def plan(spec: CodeSpec, options: Options) -> Plan:
    """Plan with L = N places and N steps. Codes of several scales or of a sequence are read in their own order."""
    length = spec.length
    slots = torch.arange(length)[:, None]
    return Plan(
        reads=torch.cat([torch.tensor([[COND]]), slots[:-1]]),
        predicts=slots,
        at=torch.arange(-1, length - 1),
        grid=positions(spec),
        step=torch.arange(length),
    )


def positions(spec: CodeSpec) -> Tensor:
    """[N, 2] (row, column) of every code; a code of a sequence stands in column 0."""
    return torch.cat([_grid(grid) for grid in spec.grids])


def _grid(grid: tuple[int, ...]) -> Tensor:
    columns = grid[1] if len(grid) == 2 else 1
    index = torch.arange(prod(grid))
    return torch.stack([index // columns, index % columns], dim=1)
