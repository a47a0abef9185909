"""Plan: a prediction unit as static index tensors.

A *slot* is a code's index in the tokenizer's order, 0..N-1: what is predicted. A *place* is an index in the
transformer's input sequence, 0..L-1: where something is read and predicted. For each place a plan says which codes it
reads, which it predicts, at which grid position it stands for the rotary embedding, and the step, the forward pass, in
which it is fed.

Everything else follows. The attention mask: a place sees the places of earlier steps and those of its own step (up to
itself where the unit is causal inside a step). The default schedule: the codes of step s are sampled together. The
cache: places are written in order, so the first `starts[s]` of them are what steps < s have left behind; and because
decoding uses rows of the very mask used in training, entries written by a rejected draft are never seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor

from pointillist import CodeSpec

COND = -1  # the place reads the last condition token
NONE = -2  # padding of `reads` and `predicts`
LEARNED = -3  # the place reads learned token i: LEARNED - i
PREFIX = -(1 << 20)  # the place reads condition token i, none but the last: PREFIX - i


@dataclass(frozen=True)
class Plan:
    """Index tensors over L places, all int64 (grid may be fractional).

    reads     [L, R] slots whose embeddings are averaged; or COND, LEARNED - i, PREFIX - i, padded with NONE
    predicts  [L, P] slots predicted from this place, all with the same logits; padded with NONE
    at        [L]    the row of `grid` where the place stands; -1 has the zero rotation of LlamaGen's condition token
    grid      [G, 2] (row, column) positions; with one row a slot, per-image orders can permute a plan
    step      [L]    the pass in which the place is fed and its codes are predicted; never falls along the sequence
    causal    inside a step, a place sees only the places up to itself, as those of a prefix always do
    """

    reads: Tensor
    predicts: Tensor
    at: Tensor
    grid: Tensor
    step: Tensor
    causal: bool = False

    def __post_init__(self) -> None:
        places = len(self.step)
        for name, ndim in (("reads", 2), ("predicts", 2), ("at", 1)):
            value = getattr(self, name)
            assert value.ndim == ndim and len(value) == places, f"plan.{name} is {tuple(value.shape)}, L = {places}"
        assert int(self.at.max()) < len(self.grid), f"plan.at reaches {int(self.at.max())}, grid has {len(self.grid)}"
        assert self.step[0] == 0 and bool((self.step.diff() >= 0).all()), "plan.step must rise from 0 along the places"
        slots = self.predicts[self.predicts >= 0].sort().values
        assert torch.equal(slots, torch.arange(len(slots))), "a plan predicts every code exactly once"

    @property
    def length(self) -> int:
        """L, places."""
        return len(self.step)

    @cached_property
    def num_codes(self) -> int:
        """N, slots."""
        return int((self.predicts >= 0).sum())

    @cached_property
    def num_learned(self) -> int:
        return int((LEARNED - self.reads[self.reads > PREFIX].min()).clamp_min(-1)) + 1

    @cached_property
    def prefix(self) -> int:
        """Places in front that read the condition's tokens before its last."""
        return int((self.reads[:, 0] <= PREFIX).sum())

    @cached_property
    def starts(self) -> Tensor:
        """[S + 1] first place of each step; the last entry is L."""
        return torch.searchsorted(self.step, torch.arange(int(self.step[-1]) + 2))

    @cached_property
    def groups(self) -> list[Tensor]:
        """The default schedule: for each step the slots [g] that its places predict, in place order."""
        bounds = self.starts.tolist()
        spans = (self.predicts[a:b].flatten() for a, b in pairwise(bounds))
        return [span[span >= 0] for span in spans]

    @cached_property
    def decoded_before(self) -> Tensor:
        """[S + 1] codes predicted before each step; the last entry is N."""
        return torch.tensor([0] + [len(group) for group in self.groups]).cumsum(0)

    @cached_property
    def place_of(self) -> Tensor:
        """[N] the place that predicts each slot."""
        places, column = (self.predicts >= 0).nonzero(as_tuple=True)
        return torch.empty(self.num_codes, dtype=torch.long).scatter_(0, self.predicts[places, column], places)

    @cached_property
    def mask(self) -> Tensor:
        """[L, L] bool: may place q (row) attend to place k (column)?"""
        q, k = self.step[:, None], self.step[None, :]
        inside = self.lower if self.causal else torch.ones_like(self.lower)
        inside[: self.prefix] = self.lower[: self.prefix]
        return (k < q) | ((k == q) & inside)

    @property
    def lower(self) -> Tensor:
        return torch.ones(self.length, self.length, dtype=torch.bool).tril()

    @cached_property
    def is_triangular(self) -> bool:
        """The mask is the plain causal triangle, for which attention needs no mask tensor."""
        return torch.equal(self.mask, self.lower)


def positions(spec: CodeSpec) -> Tensor:
    """[N, 2] (row, column) of every slot in its own grid; a code of a sequence stands in column 0."""

    def of(grid: tuple[int, ...]) -> Tensor:
        columns, index = grid[1] if len(grid) == 2 else 1, torch.arange(prod(grid))
        return torch.stack([index // columns, index % columns], dim=1)

    return torch.cat([of(grid) for grid in spec.grids])


def neighbours(spec: CodeSpec, side: Literal["left", "above"]) -> Tensor:
    """[N] the slot on that side of every slot in its own grid, -1 where there is none."""
    down, right = (1, 0) if side == "above" else (0, 1)
    slot_at = {}
    for scale, grid in enumerate(spec.grids):
        for row, column in torch.cartesian_prod(torch.arange(grid[0]), torch.arange(prod(grid[1:]))).tolist():
            slot_at[scale, row, column] = len(slot_at)
    return torch.tensor([slot_at.get((scale, row - down, column - right), -1) for scale, row, column in slot_at])


class Misfit(ValueError):
    """A unit that cannot predict codes of this shape."""


def plane(spec: CodeSpec, unit: str) -> tuple[int, int]:
    """(height, width) of codes on one plane. Raises Misfit for other shapes."""
    if len(spec.grids) != 1 or len(spec.grids[0]) != 2:
        raise Misfit(f"unit={unit} needs codes on one plane, this tokenizer's lie on {spec.grids}")
    return spec.grids[0]


def divides(size: int, height: int, width: int, option: str = "unit.size") -> int:
    """`size`, if it divides the plane. Raises ValueError with the sizes that do."""
    fitting = [k for k in range(1, height + 1) if height % k == 0 and width % k == 0]
    if size not in fitting:
        raise ValueError(f"{option}: {size} does not divide {height} x {width} codes; sides that do are {fitting}")
    return size


def with_prefix(plan: Plan, length: int) -> Plan:
    """The plan for a condition of `length` tokens: places for all but the last of them come first, in its step 0."""
    more = length - 1
    reads, predicts = (torch.full((more, part.shape[1]), NONE) for part in (plan.reads, plan.predicts))
    reads[:, 0] = PREFIX - torch.arange(more)
    return replace(
        plan,
        reads=torch.cat([reads, plan.reads]),
        predicts=torch.cat([predicts, plan.predicts]),
        at=torch.cat([torch.full((more,), -1), plan.at]),
        step=torch.cat([torch.zeros(more, dtype=torch.long), plan.step]),
    )


def grouped(groups: Tensor, grid: Tensor) -> Plan:
    """Equal groups, slots [S, g], predicted one after another, the codes of a group in parallel.

    A place reads the code that stands where its own does in the group before. The first group has none: it reads the
    condition and g - 1 learned tokens, which stand where their codes will.
    """
    size = groups.shape[1]
    first = torch.cat([torch.tensor([COND]), LEARNED - torch.arange(size - 1)])
    read, flat = torch.cat([first, groups[:-1].flatten()]), groups.flatten()
    at = torch.where(read <= LEARNED, flat, read.clamp_min(-1))
    step = torch.arange(len(groups)).repeat_interleave(size)
    return Plan(reads=read[:, None], predicts=flat[:, None], at=at, grid=grid, step=step)
