"""The target law: wrappers around a generator's `query`. What a sampler receives is the very law it must sample.

House convention of guidance: unconditional + scale * (conditional - unconditional), 1 = off. Recipes that write
(1 + w) * conditional - w * unconditional are translated by w -> 1 + w. Guidance comes first, then temperature, then
top-k, then top-p, then min-p; each may follow a schedule along the codes (sampling/schedules.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Cut, Dist, Noise
from pointillist.models.generator import Pattern
from pointillist.sampling.schedules import Schedule


@dataclass
class Law:
    """A generator seen through another `query`; everything else passes through."""

    generator: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def shares(self, state: Any, m: int) -> tuple[Tensor, Tensor]:
        """Shares [B, m] of the codes and of the unit's steps done before each of the next m groups."""
        return self.decoded(state, m) / self.plan.num_codes, self.step_share(state, m)


@dataclass
class GuidedState:
    """The doubled state: images [0, B) conditional, [B, 2B) unconditional."""

    both: Any

    @property
    def length(self) -> Tensor:
        return self.both.length.chunk(2)[0]

    @property
    def images(self) -> Tensor:
        return self.both.images.chunk(2)[0]

    @property
    def fed(self) -> int:
        return self.both.fed


@dataclass
class Guided(Law):
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) in one pass of twice the rows."""

    scale: Schedule = field(default_factory=lambda: Schedule(1.0, 1.0))
    interval: tuple[float, float] = (0.0, 1.0)  # shares of the codes between which there is guidance
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

    def step_share(self, state: GuidedState, m: int) -> Tensor:
        return self.generator.step_share(state.both, m).chunk(2)[0]

    def query(
        self, state: GuidedState, slots: Tensor, draft: Tensor | None = None, pattern: Pattern | None = None
    ) -> Dist:
        m = slots.shape[1] if pattern is None else pattern.levels
        codes, steps = self.shares(state, m)
        low, high = self.interval
        scale = torch.where((codes >= low) & (codes <= high), self.scale.at(codes, steps), 1.0)  # [B, m]
        twice = None if draft is None else torch.cat([draft, draft])
        dist = self.generator.query(state.both, torch.cat([slots, slots]), twice, pattern)
        return dist.guided(scale if pattern is None else scale[:, list(pattern.depth)])

    def commit(self, state: GuidedState, codes: Tensor, keep: Tensor | int, path: Tensor | None = None) -> None:
        both = keep if isinstance(keep, int) else torch.cat([keep, keep])
        path = path if path is None else torch.cat([path, path])
        self.generator.commit(state.both, torch.cat([codes, codes]), both, path)

    def rewind(self, state: GuidedState, length: Tensor, slots: Tensor, codes: Tensor) -> None:
        self.generator.rewind(state.both, *(torch.cat([x, x]) for x in (length, slots, codes)))

    def select(self, state: GuidedState, rows: Tensor) -> GuidedState:
        return GuidedState(self.generator.select(state.both, torch.cat([rows, rows + len(state.images)])))

    def refill(self, state: GuidedState, rows: Tensor, fresh: GuidedState) -> None:
        self.generator.refill(state.both, torch.cat([rows, rows + len(state.images)]), fresh.both)

    def features(self, state: GuidedState) -> Tensor:
        return self.generator.features(state.both)

    def can_draft(self, state: GuidedState) -> Tensor:
        return self.generator.can_draft(state.both).chunk(2)[0]

    def learn(self, state: GuidedState, slots: Tensor, features: Tensor) -> None:
        self.generator.learn(state.both, torch.cat([slots, slots]), features)

    def revealed(self, state: GuidedState) -> Tensor:
        return self.generator.revealed(state.both).chunk(2)[0]

    def reveal(self, state: GuidedState, codes: Tensor, known: Tensor) -> None:
        self.generator.reveal(state.both, torch.cat([codes, codes]), torch.cat([known, known]))

    def finish(self, state: GuidedState) -> Tensor:
        return self.generator.finish(state.both).chunk(2)[0]


@dataclass
class Warp(Law):
    """Temperature, top-k, top-p and min-p. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off."""

    temperature: Schedule
    top_k: Schedule
    top_p: Schedule
    min_p: Schedule

    def query(self, state: Any, slots: Tensor, draft: Tensor | None = None, pattern: Pattern | None = None) -> Dist:
        def now(schedule: Schedule) -> float | Tensor:
            if schedule.constant:
                return schedule.first
            values = schedule.at(*self.shares(state, slots.shape[1] if pattern is None else pattern.levels))
            return values if pattern is None else values[:, list(pattern.depth)]

        cut = Cut(now(self.temperature), now(self.top_k), now(self.top_p), now(self.min_p))
        return self.generator.query(state, slots, draft, pattern).warped(cut)


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

    def query(self, state: Any, slots: Tensor, draft: Tensor | None = None, pattern: Pattern | None = None) -> Dist:
        rows, asked = torch.arange(len(slots), device=slots.device)[:, None, None], slots.clamp_min(0)
        codes, known = of_images(self.codes, state.images)[rows, asked], self.known[0, asked]
        return self.generator.query(state, slots, draft, pattern).given(codes, known)


@dataclass
class Aided(Law):
    """A law with what some samplers use beside it: a second law that drafts, and the vectors [V, C] of the codes."""

    draft: Any = None
    codebook: Tensor | None = None

    @property
    def vectors(self) -> Tensor:
        """[V, C] fp64. Raises ValueError where the tokenizer has no codebook."""
        if self.codebook is None:
            raise ValueError("this tokenizer has no single codebook, so no codes are near each other; use another rule")
        return self.codebook.double()

    @cached_property
    def nearest(self) -> Tensor:
        """[V, K] int64: for every code the others by rising distance of their vectors, K = 1,000 at most."""
        vectors, found = self.vectors, []
        for rows in torch.arange(len(vectors), device=vectors.device).split(1024):
            apart = torch.cdist(vectors[rows], vectors, compute_mode="donot_use_mm_for_euclid_dist")
            apart.scatter_(1, rows[:, None], float("inf"))
            found.append(apart.topk(min(len(vectors) - 1, 1000), largest=False, sorted=True).indices)
        return torch.cat(found)


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


def target(
    generator: Any,
    guidance: str | float = 1,
    temperature: str | float = 1,
    top_k: str | float = 0,
    top_p: str | float = 1,
    min_p: str | float = 0,
    guidance_interval: tuple[float, float] | list[float] = (0, 1),
) -> Any:
    """The law of a sampling request; numbers or schedules. Raises ValueError for what lies outside its range."""
    scale = Schedule.parse("guidance", guidance, 0)
    cuts = [
        Schedule.parse("temperature", temperature, 0),
        Schedule.parse("top_k", top_k, 0),
        Schedule.parse("top_p", top_p, 0, 1),
        Schedule.parse("min_p", min_p, 0, 1),
    ]
    if not min(cuts[2].first, cuts[2].last) > 0:
        raise ValueError(f"top_p must lie in (0, 1], 1 = off, got {top_p}")
    if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
        raise ValueError(f"guidance_interval must be two rising shares of the codes, got {list(guidance_interval)}")
    ends = (cuts[1].first, cuts[1].last)
    if any(end != int(end) for end in ends) or (0 in ends and ends != (0, 0)):
        raise ValueError(f"top_k must be whole, and 0 (off) only as a number, not an end of a schedule; got {top_k}")
    off = (Schedule(0, 0), Schedule(1, 1), Schedule(0, 0))
    if not generator.spec.vocab and tuple(cuts[1:]) != off:
        raise ValueError(f"continuous codes have no top_k, top_p and min_p, got {top_k}, {top_p}, {min_p}; leave them")
    law = generator if scale == Schedule(1, 1) else Guided(generator, scale, tuple(guidance_interval))
    return law if tuple(cuts) == (Schedule(1, 1), *off) else Warp(law, *cuts)
