"""The target law: wrappers around a generator's `query`. What a sampler receives is the very law it must sample.

House convention of guidance: unconditional + scale * (conditional - unconditional), 1 = off. Recipes that write
(1 + w) * conditional - w * unconditional are translated by w -> 1 + w. Guidance comes first, then temperature, then
top-k, then top-p. Schedules are functions of what is decoded before a slot, never of a sampler's step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Dist, Noise

# Share r in [0, 1] of the codes decoded before a group -> how far guidance has grown from 1 to its full scale.
SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "linear": lambda r: r,  # RandAR
    "cosine": lambda r: (1 - torch.cos(math.pi * r)) / 2,  # RAR with power 1
    "steps": lambda r: r,  # VAR's scales, xAR's cells: r counts the unit's steps instead, and reaches 1 at the last
}


@dataclass
class Law:
    """A generator seen through another `query`; everything else passes through."""

    generator: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)


@dataclass
class GuidedState:
    """The doubled state: images [0, B) conditional, [B, 2B) unconditional."""

    both: Any

    @property
    def length(self) -> Tensor:
        return self.both.length.chunk(2)[0]

    @property
    def codes(self) -> Tensor:
        return self.both.codes.chunk(2)[0]

    @property
    def images(self) -> Tensor:
        return self.both.images.chunk(2)[0]


@dataclass
class Guided(Law):
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) in one pass of twice the rows."""

    scale: float = 1.0
    schedule: str = "constant"
    streams = 2

    def start(
        self, cond: Tensor, images: Tensor, noise: Noise, order: Tensor | None = None, known: int = 0
    ) -> GuidedState:
        twice = None if order is None else torch.cat([order, order])
        both = torch.cat([cond, self.generator.null(cond)])
        return GuidedState(self.generator.start(both, torch.cat([images, images]), noise, twice, known))

    def groups(self, state: GuidedState) -> list[Tensor]:
        return [group.chunk(2)[0] for group in self.generator.groups(state.both)]

    def decoded(self, state: GuidedState, m: int) -> Tensor:
        return self.generator.decoded(state.both, m).chunk(2)[0]

    def query(self, state: GuidedState, slots: Tensor, draft: Tensor | None = None) -> Dist:
        m = slots.shape[1]
        if self.schedule == "steps":
            share = self.generator.step_share(state.both, m).chunk(2)[0]
        else:
            share = self.decoded(state, m) / self.plan.num_codes
        scale = 1 + (self.scale - 1) * SCHEDULES[self.schedule](share)  # [B, m]
        twice = None if draft is None else torch.cat([draft, draft])
        return self.generator.query(state.both, torch.cat([slots, slots]), twice).guided(scale)

    def commit(self, state: GuidedState, codes: Tensor, keep: Tensor | int) -> None:
        both = keep if isinstance(keep, int) else torch.cat([keep, keep])
        self.generator.commit(state.both, torch.cat([codes, codes]), both)

    def revealed(self, state: GuidedState) -> Tensor:
        return self.generator.revealed(state.both).chunk(2)[0]

    def reveal(self, state: GuidedState, codes: Tensor, known: Tensor) -> None:
        self.generator.reveal(state.both, torch.cat([codes, codes]), torch.cat([known, known]))

    def finish(self, state: GuidedState) -> Tensor:
        return self.generator.finish(state.both).chunk(2)[0]


@dataclass
class Warp(Law):
    """Temperature, top-k and top-p. temperature 0 is greedy, top_k 0 and top_p 1 are off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def query(self, state: Any, slots: Tensor, draft: Tensor | None = None) -> Dist:
        return self.generator.query(state, slots, draft).warped(self.temperature, self.top_k, self.top_p)


@dataclass
class Ordered(Law):
    """A law decoded in orders [images, N] by global image index, or [1, N] for all."""

    orders: Tensor

    def order(self, images: Tensor, noise: Noise) -> Tensor:
        return of_images(self.orders, images)

    def start(self, cond: Tensor, images: Tensor, noise: Noise, order: Tensor | None = None, known: int = 0) -> Any:
        order = self.order(images, noise) if order is None else order
        return self.generator.start(cond, images, noise, order, known)


@dataclass
class Inpaint(Law):
    """The law of the unknown codes given the known ones, for every sampler: known codes are certain.

    codes [images, N, ...] by global image index or [1, N, ...] for all, known [1, N] bool. A unit of any order is given
    the known codes first. One of fixed order can only be asked for what it decodes after them.
    """

    codes: Tensor
    known: Tensor

    def __post_init__(self) -> None:
        assert len(self.known) == 1, "images of one request share a mask: their passes are the same"
        assert can_keep(self.generator, self.known), "this unit would paint codes before it sees those that are kept"

    def start(self, cond: Tensor, images: Tensor, noise: Noise, order: Tensor | None = None) -> Any:
        if not self.any_order:
            return self.generator.start(cond, images, noise, order)
        order = self.generator.order(images, noise) if order is None else order
        known = self.known.expand(len(images), -1)
        order = order.gather(1, (~known).gather(1, order).long().argsort(dim=-1, stable=True))
        state = self.generator.start(cond, images, noise, order, int(self.known.sum()))
        if self.any_subset:
            self.generator.reveal(state, of_images(self.codes, images), known)
        return state

    def query(self, state: Any, slots: Tensor, draft: Tensor | None = None) -> Dist:
        rows, asked = torch.arange(len(slots), device=slots.device)[:, None, None], slots.clamp_min(0)
        codes, known = of_images(self.codes, state.images)[rows, asked], self.known[0, asked]
        return self.generator.query(state, slots, draft).given(codes, known)


def of_images(values: Tensor, images: Tensor) -> Tensor:
    """Rows [B, ...] of values [1 | all images, ...]."""
    return values.expand(len(images), *values.shape[1:]) if len(values) == 1 else values[images]


def can_keep(generator: Any, known: Tensor) -> bool:
    """Does every code to be painted see the known ones, [1, N] bool? In any order it can; a plan must decode
    it after the last known one; together with it too, where codes of one step are independent given those before."""
    if generator.plan.num_codes != known.shape[1]:
        return False  # other codes are decoded on the way
    if generator.any_order:
        return True
    step = generator.plan.step[generator.plan.place_of].to(known.device)
    last_known = torch.where(known, step, -1).amax(1)
    first_painted = torch.where(known, len(step), step).amin(1)
    return bool((first_painted >= last_known + generator.joint).all())


def target(generator: Any, guidance: float, schedule: str, temperature: float, top_k: int, top_p: float) -> Any:
    """The law of a sampling request. Raises ValueError for numbers outside their range."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown guidance_schedule '{schedule}'; choose one of {', '.join(SCHEDULES)}")
    limits = (("guidance", guidance, 0), ("temperature", temperature, 0), ("top_k", top_k, 0))
    for name, value, least in limits:
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least} and finite, got {value}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], 1 = off, got {top_p}")
    if not generator.spec.vocab and (top_k or top_p != 1):
        raise ValueError(f"continuous codes have no top_k and top_p, got {top_k} and {top_p}; leave them off")
    law = generator if guidance == 1 else Guided(generator, guidance, schedule)
    return law if (temperature, top_k, top_p) == (1, 0, 1) else Warp(law, temperature, top_k, top_p)
