"""State: where decoding stands."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pointillist.models.blocks import Cache
from pointillist.models.layout import Index
from pointillist.models.transformer import Modulations
from pointillist.models.tree import Branches


@dataclass
class State:
    """Decoding state of B images. `length` is the truth; codes and caches beyond it are scratch.

    images   [B] global indices
    order    [B, N] per-image order of the slots, or None where the plan's own is everyone's
    known    how many codes of the order are given beforehand
    modulations of cond, where the transformer takes any
    length   [B] committed groups
    longest  an upper bound of length, known without asking the device
    codes    [B, N + 1], [B, N + 1, K] or [B, N + 1, C] by slot; the last row takes what has no slot (-1)
    slots    [B, m, g] of the latest query, which commit() writes to
    hidden   [B, m, g, D] states of the transformer that its laws came from
    fed      places an image that the network read for it
    branches of the latest query, if it was over a tree
    """

    cond: Tensor
    images: Tensor
    length: Tensor
    codes: Tensor
    caches: list[Cache]
    index: Index
    order: Tensor | None = None
    known: int = 0
    modulations: Modulations | None = None
    longest: int = 0
    slots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    fed: int = 0
    branches: Branches | None = None

    def put(self, slots: Tensor, codes: Tensor) -> None:
        """Write codes [B, m, g, ...] to slots [B, m, g]."""
        rows = torch.arange(len(slots), device=slots.device)[:, None]
        self.codes[rows, slots.flatten(1)] = codes.flatten(1, 2).to(self.codes.dtype)
