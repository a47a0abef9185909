"""State: where decoding stands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
    shortest, longest  bounds of length, known without asking the device
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
    shortest: int = 0
    longest: int = 0
    slots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    fed: int = 0
    branches: Branches | None = None

    @property
    def together(self) -> bool:
        """All images have committed as many groups."""
        return self.shortest == self.longest

    def advance(self, keep: Tensor | int) -> None:
        """Stand keep [B] groups further, or all images as many."""
        if isinstance(keep, int):
            self.length = self.length + keep
            self.shortest, self.longest = self.shortest + keep, self.longest + keep
        else:
            self.stand_at(self.length + keep)

    def stand_at(self, length: Tensor) -> None:
        """Stand at length [B] groups."""
        self.length = length
        self.shortest, self.longest = torch.stack(length.aminmax()).tolist()

    def select(self, rows: Tensor) -> State:
        """The state of rows [b], which may hold one more than once."""
        index, taken = self.index, {name: getattr(self, name)[rows] for name in ("cond", "images", "length", "codes")}
        if len(index.at) > 1:
            index = Index(index.reads[rows], index.predicts[rows], index.at[rows], index.place_of[rows])
        return replace(
            self,
            **taken,
            caches=[Cache(cache.k[rows], cache.v[rows]) for cache in self.caches],
            index=index,
            order=None if self.order is None else self.order[rows],
            modulations=self.modulations and [part if part is None else part[rows] for part in self.modulations],
        )

    def refill(self, rows: Tensor, fresh: State) -> None:
        """Give rows [b] to the images of a state that was just started. Nothing is in its caches, so there is nothing
        to copy: a row's keys of the image before are hidden like every other scratch."""
        for name in ("cond", "images", "codes", *(() if self.order is None else ("order",))):
            setattr(self, name, getattr(self, name).index_copy(0, rows, getattr(fresh, name)))
        if self.order is not None:
            names = ("reads", "predicts", "at", "place_of")
            self.index = Index(*(getattr(self.index, n).index_copy(0, rows, getattr(fresh.index, n)) for n in names))
        if self.modulations is not None:
            pairs = zip(self.modulations, fresh.modulations, strict=True)
            self.modulations = [old if old is None else old.index_copy(0, rows, new) for old, new in pairs]
        self.stand_at(self.length.index_copy(0, rows, fresh.length))
        for cache in self.caches:  # but not where it is no number: a masked NaN is still a NaN
            cache.k.index_fill_(0, rows, 0)
            cache.v.index_fill_(0, rows, 0)

    def put(self, slots: Tensor, codes: Tensor) -> None:
        """Write codes [B, m, g, ...] to slots [B, m, g]."""
        rows = torch.arange(len(slots), device=slots.device)[:, None]
        self.codes[rows, slots.flatten(1)] = codes.flatten(1, 2).to(self.codes.dtype)
