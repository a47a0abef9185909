"""masked (MaskGIT, Chang et al., arXiv 2202.04200): any unknown codes given any known ones, in both directions.

The network sees the condition and every code; unknown ones are replaced by a learned mask vector. In the codes
themselves -1 (NaN where they are continuous) says unknown. On continuous codes, with the flow head that they bring,
this is MAR (Li et al., arXiv 2406.11838).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models import generator
from pointillist.models.any_order import AnyOrder
from pointillist.models.blocks import Cache
from pointillist.models.dist import Dist, Noise
from pointillist.models.generator import Pattern, State
from pointillist.models.layout import Index
from pointillist.models.plan import COND, NONE, Plan, positions

SAMPLING = {"passes"}  # options that may change after training


@dataclass
class Options:
    name: str = "masked"
    ratio: Literal["cosine", "arccos"] = "cosine"  # law of the hidden share in training: MaskGIT's or TiTok's
    passes: int = 16  # of a whole image in random order, cosine schedule; 0 = one code a pass

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise ValueError(f"unit.passes must be at least 0, got {self.passes}")


def plan(spec: CodeSpec, options: Options) -> Plan:
    """L = N + 1 places that all see one another: the condition, then every code at its own."""
    slots = torch.arange(spec.length)
    reads, predicts = (torch.cat([torch.tensor([first]), slots])[:, None] for first in (COND, NONE))
    return Plan(reads, predicts, reads[:, 0], positions(spec), torch.zeros(spec.length + 1, dtype=torch.long))


class Generator(AnyOrder):
    any_subset = True
    windows = False

    def __init__(self, options: generator.Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Options) -> None:
        super().__init__(options, spec, plan, num_classes, unit)
        self.mask, self.position = nn.Parameter(torch.zeros(dim := options.shape().dim)), nn.Embedding(spec.length, dim)
        nn.init.normal_(self.mask, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)

    def embed(self, codes: Tensor, cond: Tensor, index: Index) -> Tensor:
        codes = codes[:, : self.plan.num_codes]
        x = super().embed(codes.clamp_min(0) if self.spec.vocab else codes.nan_to_num(), cond, index)
        x = torch.where(F.pad(unknown(codes, self.spec), (1, 0))[..., None], self.mask.to(x.dtype), x)
        return x + F.pad(self.position.weight, (0, 0, 1, 0))  # rotations tell only where codes are to one another

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, progress: float = 1) -> dict[str, Tensor]:
        """Mean loss of hidden codes. In training the hidden share follows unit.ratio; in evaluation the hidden number
        is uniform, which bounds -log p of an image decoded one code a pass in random order, per code."""
        batch, length = codes.shape[:2]
        u = (torch.randperm(batch, device=codes.device) + torch.rand((), device=codes.device)) / batch  # spread evenly
        if self.training:
            u = (torch.pi / 2 * u).cos() if self.unit.ratio == "cosine" else u.arccos() * 2 / torch.pi
        number = (u * length).floor().long() + 1 if not self.training else (u * length).ceil().long().clamp(1, length)
        hide = torch.rand(batch, length, device=codes.device).argsort(-1) < number.clamp_max(length)[:, None]
        losses = self.head.loss(self.hidden(hidden_codes(codes, hide), self.drop(cond)), codes) * hide
        return {"loss": losses.sum() / hide.sum() if self.training else (losses.sum(1) / hide.sum(1)).mean()}

    def start(self, cond: Tensor, images: Tensor, noise: Noise, order: Tensor | None = None, known: int = 0) -> State:
        state = super().start(cond, images, noise, order, known)
        state.index = self.layout.index()  # the order is a schedule; every place sees every other
        return state

    def new_caches(self, batch: int) -> list[Cache]:
        return []

    def blank(self, cond: Tensor) -> Tensor:
        return super().blank(cond) - 1 if self.spec.vocab else super().blank(cond) * math.nan

    def revealed(self, state: State) -> Tensor:
        """[B, N] bool."""
        return ~unknown(state.codes[:, :-1], self.spec)

    def reveal(self, state: State, codes: Tensor, known: Tensor) -> None:
        """Make codes [B, N, ...] at known [B, N] known before the first pass."""
        state.codes[:, :-1] = hidden_codes(codes.to(state.codes.dtype), ~known)

    def groups(self, state: State) -> list[Tensor]:
        groups = super().groups(state)
        return groups[1:] if state.known else groups  # what is given has been revealed

    def decoded(self, state: State, m: int) -> Tensor:
        return self.revealed(state).sum(1, keepdim=True).expand(-1, m)

    def step_share(self, state: State, m: int) -> Tensor:
        """A sampler may take its own number of passes, so codes are counted here too."""
        return self.decoded(state, m) / self.plan.num_codes

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None, pattern: Pattern | None = None) -> Dist:
        """One pass over the whole image: the laws of slots [B, 1, g], each given the known codes alone."""
        assert draft is None and slots.shape[1] == 1, "masked units have no windows to verify"
        state.slots, state.fed = slots, self.plan.length
        hidden = self.hidden(state.codes[:, :-1], state.cond)
        return self.head.dist(torch.take_along_dim(hidden, slots[:, 0, :, None], dim=1)[:, None])

    def commit(self, state: State, codes: Tensor, keep: Tensor | int, path: Tensor | None = None) -> None:
        """keep [B, 1, g] bool: those codes are known from now on and the others of the query are not; 1: all are."""
        state.put(state.slots, codes if isinstance(keep, int) else hidden_codes(codes, ~keep))
        state.advance(1)


def unknown(codes: Tensor, spec: CodeSpec) -> Tensor:
    """[B, N] bool of codes [B, N], [B, N, K] or [B, N, C]."""
    if not spec.vocab:
        return codes.isnan().any(-1)
    return codes < 0 if len(spec.vocab) == 1 else (codes < 0).any(-1)


def hidden_codes(codes: Tensor, hide: Tensor) -> Tensor:
    """Codes with those at hide [...] bool marked unknown."""
    hide = hide.view(*hide.shape, *[1] * (codes.ndim - hide.ndim))
    return codes.masked_fill(hide, math.nan if codes.is_floating_point() else -1)
