"""RAR (Yu et al., arXiv 2411.00776): next-token in random orders that are annealed to raster during training.

Every place is told which position it is to predict, by a learned embedding of the target's position (the paper's
target-aware position), so that one network serves every order. Sampling is raster.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models import generator
from pointillist.models.layout import Index
from pointillist.models.plan import Plan
from pointillist.models.units import token


@dataclass
class Options:
    name: str = "rar"
    anneal: list[float] = field(default_factory=lambda: [0.5, 0.75])  # random orders give way to raster between these

    def __post_init__(self) -> None:
        if len(self.anneal) != 2 or not 0 <= self.anneal[0] <= self.anneal[1] <= 1:
            raise ValueError(f"unit.anneal must be two rising shares in [0, 1], got {self.anneal}")


def plan(spec: CodeSpec, options: Options) -> Plan:
    """next-token's, in raster order."""
    return token.plan(spec, token.Options())


class Generator(generator.Generator):
    def __init__(self, options: generator.Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Options) -> None:
        super().__init__(options, spec, plan, num_classes, unit)
        self.target = nn.Embedding(spec.length, options.shape().dim)
        nn.init.normal_(self.target.weight, std=0.02)

    def embed(self, codes: Tensor, cond: Tensor, index: Index) -> Tensor:
        return super().embed(codes, cond, index) + self.target(index.predicts[..., 0])

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, progress: float = 1) -> dict[str, Tensor]:
        """An image's order is random with probability r(progress), 1 falling to 0 over unit.anneal, else raster."""
        start, end = self.unit.anneal
        share = min(max((end - progress) / max(end - start, 1e-9), 0.0), 1.0)
        if order is None and share > 0:
            shape = codes.shape[:2]
            shuffled = torch.rand(shape, device=codes.device).argsort(-1)
            raster = torch.arange(shape[1], device=codes.device).expand(shape)
            order = torch.where(torch.rand(shape[0], 1, device=codes.device) < share, shuffled, raster)
        return super().loss(codes, cond, order)
