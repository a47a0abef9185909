"""next-scale (VAR, Tian et al., arXiv 2404.02905): all codes of a scale at once, given the coarser scales.

A scale reads what the coarser ones amount to: the tokenizer's f_hat, summed over them and brought to this scale's grid
by its `lift` (codebook and phi convolutions), which the generator keeps a frozen copy of. The first scale reads the
condition. Each scale has a level embedding, each code a position embedding, and codes stand at their centres on the
finest grid. The published networks have other blocks than the house's and no rotations: zoo/var.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models import generator
from pointillist.models.layout import Index
from pointillist.models.plan import COND, Misfit, Plan, positions


@dataclass
class Options:
    name: str = "scale"


def plan(spec: CodeSpec, options: Options) -> Plan:
    """L = N places, one step a scale. Raises Misfit for codes on one grid."""
    if len(spec.grids) < 2 or len(spec.vocab) != 1 or any(len(grid) != 2 for grid in spec.grids):
        raise Misfit(
            f"unit=scale needs codes on a pyramid of grids and one book, this tokenizer has grids {spec.grids} and "
            f"{len(spec.vocab)} books; tokenizer=pyramid trains such a one"
        )
    slots, codes = torch.arange(spec.length), torch.tensor([height * width for height, width in spec.grids])
    step = torch.arange(len(codes)).repeat_interleave(codes)
    reads = torch.where(step == 0, COND, slots)
    size = torch.tensor(spec.grids, dtype=torch.float)
    centres = (positions(spec) + 0.5) * (size[-1] / size)[step] - 0.5
    return Plan(reads[:, None], slots[:, None], slots, centres, step)


class Generator(generator.Generator):
    reads_lift = True

    def __init__(
        self,
        options: generator.Options,
        spec: CodeSpec,
        plan: Plan,
        num_classes: int,
        unit: Options,
        lift: nn.Module,
    ) -> None:
        super().__init__(options, spec, plan, num_classes, unit)
        dim = options.shape().dim
        self.lift, self.word = lift.requires_grad_(False), nn.Linear(spec.channels, dim)
        self.level_embedding, self.position = nn.Embedding(len(spec.grids), dim), nn.Embedding(spec.length, dim)
        for table in (self.level_embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def new_code_embedding(self, dim: int) -> None:
        """Codes are read through the lift."""

    def cast(self, dtype: torch.dtype) -> None:
        lift = self._modules.pop("lift")  # sums over scales stay as exact as the tokenizer's
        super().cast(dtype)
        self.lift = lift

    def embed(self, codes: Tensor, cond: Tensor, index: Index) -> Tensor:
        slots = index.predicts[..., 0]  # [1 | B, W] each place reads what its own slot is to refine
        with torch.no_grad(), torch.autocast(codes.device.type, enabled=False):  # sampling sees what training saw
            maps = self.lift.inputs(codes[:, : self.plan.num_codes])  # [B, N, C]
        x = self.word(torch.take_along_dim(maps, slots[..., None], dim=1).to(self.word.weight.dtype))
        x = torch.where(index.reads == COND, self.class_embedding(cond)[:, None], x)
        return x + self.level_embedding(self.layout.step[slots]) + self.position(slots)
