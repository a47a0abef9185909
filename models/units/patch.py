"""Next-Patch Prediction (Pang et al., arXiv 2412.15321): coarse patches first in training, plain raster in the end.

A stage with patches of side p reads the mean embedding of p x p codes and predicts all codes of the next patch with the
same logits; patches stand on a grid of their own. Training goes through the sides from coarse to fine. Sampling, and
scoring, is next-token prediction: the network is LlamaGen's, and so are its published weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models import generator
from pointillist.models.plan import COND, NONE, Plan, divides, plane
from pointillist.models.units import token


@dataclass
class Options:
    name: str = "patch"
    sides: list[int] = field(default_factory=lambda: [2])  # of the patches, one a stage; single codes come last
    rate: float = 0.5  # a stage ends at this share of where the next one does

    def __post_init__(self) -> None:
        falling = self.sides == sorted(set(self.sides), reverse=True) and min(self.sides, default=2) > 1
        if not (falling and 0 < self.rate < 1):
            raise ValueError(
                "unit.sides must fall and stay above 1, and unit.rate must lie between 0 and 1; got "
                f"{self.sides} and {self.rate}"
            )

    def stage(self, progress: float) -> int:
        """Of n stages before single codes, stage i ends after rate^(n - i) of the training; n is single codes."""
        return sum(progress >= self.rate ** (len(self.sides) - i) for i in range(len(self.sides)))


def plan(spec: CodeSpec, options: Options) -> Plan:
    """The last stage's, which sampling uses. Raises ValueError where a side does not divide the plane."""
    height, width = plane(spec, "patch")
    for side in options.sides:
        divides(side, height, width, "unit.sides")
    return token.plan(spec, token.Options())


def patch_plan(spec: CodeSpec, side: int) -> Plan:
    """L = N / side^2 places, as many steps."""
    height, width = (edge // side for edge in spec.grids[0])
    slots = torch.arange(spec.length).view(height, side, width, side).transpose(1, 2).reshape(-1, side * side)
    cond = torch.full((1, side * side), NONE)
    cond[0, 0] = COND
    patches = torch.arange(len(slots))
    grid = torch.stack([patches // width, patches % width], dim=1)
    return Plan(torch.cat([cond, slots[:-1]]), slots, patches - 1, grid, patches)


class Generator(generator.Generator):
    def __init__(self, options: generator.Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Options) -> None:
        super().__init__(options, spec, plan, num_classes, unit)
        self.stages = nn.ModuleList(self.new_layout(self.captioned(patch_plan(spec, side))) for side in unit.sides)

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, progress: float = 1) -> dict[str, Tensor]:
        """Mean cross-entropy of every code with its patch's logits, in the stage that `progress` lies in."""
        stage = self.unit.stage(progress)
        layout = [*self.stages, self.layout][stage]
        hidden = self.hidden(codes, self.drop(cond), order, layout)
        return {
            "loss": self.head.loss(hidden, codes).mean(),
            "stage": torch.tensor(float(stage)),
        }
