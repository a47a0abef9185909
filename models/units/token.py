"""next-token: one code at a time in a fixed scan order (LlamaGen, arXiv 2406.06525: raster).

The sequence is [cond, x_1 .. x_{N-1}] in that order, each place predicting the next code; a place carries the rotary
position of the code it reads, and the condition the zero rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.models.orders import ORDERS
from pointillist.models.plan import COND, Plan, positions


@dataclass
class Options:
    name: str = "token"
    order: str = "raster"  # raster | column | snake | spiral_in | spiral_out | hilbert | subsample | random

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"unknown unit.order '{self.order}'; choose one of {', '.join(ORDERS)}")


def plan(spec: CodeSpec, options: Options) -> Plan:
    """L = N places, N steps. Codes of a sequence or a pyramid come in their own order; raster is the only one there."""
    order = _order(spec, options.order)
    read = torch.cat([torch.tensor([COND]), order[:-1]])
    return Plan(
        reads=read[:, None],
        predicts=order[:, None],
        at=read.clamp_min(-1),
        grid=positions(spec),
        step=torch.arange(spec.length),
    )


def _order(spec: CodeSpec, name: str) -> Tensor:
    if len(spec.grids) == 1 and len(spec.grids[0]) == 2:
        return ORDERS[name](*spec.grids[0])
    if name != "raster":
        raise ValueError(f"unit.order={name} needs codes on one plane, these lie on {spec.grids}; use raster")
    return torch.arange(spec.length)
