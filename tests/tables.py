"""Table: the smallest generator there is. Each code's law is a row of a table, found by all codes decoded before it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.configs.options import find
from pointillist.models.dist import Categorical
from pointillist.models.generator import steps_done
from pointillist.models.tree import Tree


def line(length: int, vocab: int = 2) -> CodeSpec:
    """Codes in a row."""
    return CodeSpec(((1, length),), (vocab,), 1)


@dataclass
class State:
    """As a generator's: codes [B, N + 1] by slot, the last column takes what has no slot."""

    cond: Tensor
    images: Tensor
    length: Tensor
    codes: Tensor
    slots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    fed: int = 0

    def put(self, slots: Tensor, codes: Tensor) -> None:
        self.codes[torch.arange(len(slots))[:, None], slots.flatten(1)] = codes.flatten(1)


class Table:
    """A generator of codes with one book and 2 classes: random logits [classes + 1, prefixes, g, V]."""

    streams, any_order, any_subset, joint, windows = 1, False, False, False, True
    num_classes, options = 2, SimpleNamespace(books="parallel")

    def __init__(self, unit: str, spec: CodeSpec, spread: float = 1.2, seed: int = 0, **options: Any) -> None:
        module = find("models/units", unit)
        self.spec, self.plan = spec, module.plan(spec, module.Options(**options))
        self.order, before = torch.cat(self.plan.groups), self.plan.decoded_before
        prefixes = spec.vocab[0] ** before[:-1]
        self.offset = torch.cat([prefixes.new_zeros(1), prefixes.cumsum(0)])
        shape = (self.num_classes + 1, int(prefixes.sum()) + 1, max(map(len, self.plan.groups)), spec.vocab[0])
        self.logits = spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def null(self, cond: Tensor) -> Tensor:
        return torch.full_like(cond, self.num_classes)

    def start(self, cond: Tensor, images: Tensor, noise: Any, order: None = None, known: int = 0) -> State:
        return State(cond, images, torch.zeros_like(cond), cond.new_zeros(len(cond), self.plan.num_codes + 1))

    def groups(self, state: State) -> list[Tensor]:
        return [group.expand(len(state.codes), -1) for group in self.plan.groups]

    def decoded(self, state: State, m: int) -> Tensor:
        steps = state.length[:, None] + torch.arange(m)
        return self.plan.decoded_before[steps.clamp_max(len(self.plan.groups))]

    def step_share(self, state: State, m: int) -> Tensor:
        return steps_done(state.length, m, len(self.plan.groups))

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None, tree: Tree | None = None) -> Categorical:
        tree = Tree(tuple(range(slots.shape[1] - 1))) if tree is None else tree
        state.slots, state.fed = slots % state.codes.shape[1], len(tree)
        codes, rows = state.codes[:, None].repeat(1, len(tree), 1), torch.arange(len(slots))[:, None]
        for node, parent in enumerate(tree.parents, 1):
            codes[:, node] = codes[:, parent]
            codes[rows, node, state.slots[:, parent]] = draft[:, node - 1]
        step = state.length[:, None] + tree.depth  # [B, T]
        before = self.plan.decoded_before[step.clamp_max(len(self.plan.groups))]
        place = torch.arange(len(self.order))
        digits = codes[..., self.order] * self.spec.vocab[0] ** place * (place < before[..., None])
        row = torch.where(step < len(self.plan.groups), digits.sum(-1), 0)
        row = row + self.offset[step.clamp_max(len(self.plan.groups))]
        return Categorical(self.logits[state.cond[:, None], row, : slots.shape[2]])

    def commit(self, state: State, codes: Tensor, keep: Tensor | int, path: Tensor | None = None) -> None:
        state.put(state.slots if path is None else torch.take_along_dim(state.slots, path[..., None], 1), codes)
        state.length = state.length + keep

    def select(self, state: State, rows: Tensor) -> State:
        kept = {name: getattr(state, name)[rows] for name in ("cond", "images", "length", "codes")}
        return replace(state, **kept)

    def parameters(self) -> list[Tensor]:
        return [self.logits]

    def modules(self) -> list:
        return []

    def refill(self, state: State, rows: Tensor, fresh: State) -> None:
        for name in ("cond", "images", "length", "codes"):
            setattr(state, name, getattr(state, name).index_copy(0, rows, getattr(fresh, name)))

    def can_draft(self, state: State) -> Tensor:
        return torch.ones_like(state.length, dtype=torch.bool)

    def learn(self, state: State, slots: Tensor, features: Tensor) -> None:
        """Nothing to learn from features."""

    def rewind(self, state: State, length: Tensor, slots: Tensor, codes: Tensor) -> None:
        state.put(slots % state.codes.shape[1], codes)
        state.length = length

    def features(self, state: State) -> Tensor:
        return torch.zeros(*state.slots.shape, 1)

    def finish(self, state: State) -> Tensor:
        return state.codes[:, :-1]
