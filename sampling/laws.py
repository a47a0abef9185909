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

from pointillist.models.dist import Categorical, Noise

# Share r in [0, 1) of the codes decoded before a group -> how far guidance has grown from 1 to its full scale.
SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "linear": lambda r: r,  # RandAR, MAR
    "cosine": lambda r: (1 - torch.cos(math.pi * r)) / 2,  # RAR with power 1
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


@dataclass
class Guided(Law):
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) in one pass of twice the rows."""

    scale: float = 1.0
    schedule: str = "constant"
    streams = 2

    def start(self, cond: Tensor, images: Tensor, noise: Noise) -> GuidedState:
        both = torch.cat([cond, self.generator.null(cond)])
        return GuidedState(self.generator.start(both, torch.cat([images, images]), noise))

    def groups(self, state: GuidedState) -> list[Tensor]:
        return [group.chunk(2)[0] for group in self.generator.groups(state.both)]

    def decoded(self, state: GuidedState, m: int) -> Tensor:
        return self.generator.decoded(state.both, m).chunk(2)[0]

    def query(self, state: GuidedState, slots: Tensor, draft: Tensor | None = None) -> Categorical:
        share = self.decoded(state, slots.shape[1]) / self.spec.length  # [B, m], in [0, 1)
        scale = 1 + (self.scale - 1) * SCHEDULES[self.schedule](share)
        twice = None if draft is None else torch.cat([draft, draft])
        cond, null = self.generator.query(state.both, torch.cat([slots, slots]), twice).logits.chunk(2)
        return Categorical(null + scale[..., None, None].to(null.dtype) * (cond - null))

    def commit(self, state: GuidedState, codes: Tensor, keep: Tensor | int) -> None:
        both = keep if isinstance(keep, int) else torch.cat([keep, keep])
        self.generator.commit(state.both, torch.cat([codes, codes]), both)


@dataclass
class Warp(Law):
    """Temperature, top-k and top-p. temperature 0 is greedy, top_k 0 and top_p 1 are off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def query(self, state: Any, slots: Tensor, draft: Tensor | None = None) -> Categorical:
        return Categorical(
            warp(self.generator.query(state, slots, draft).logits, self.temperature, self.top_k, self.top_p)
        )


def warp(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Log-probabilities [..., V] up to a constant, -inf where excluded. The input is left untouched.

    top-k keeps every token that ties with the k-th; top-p keeps the token that crosses the mass, as LlamaGen does.
    """
    if temperature == 0:  # greedy, the lowest token id on ties
        best = torch.full_like(logits, float("-inf"))
        return best.scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], float("-inf"))
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1)
        excluded = mass.cumsum(-1) - mass > top_p
        logits = logits.masked_fill(excluded.scatter(-1, index, excluded), float("-inf"))
    return logits


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
    law = generator if guidance == 1 else Guided(generator, guidance, schedule)
    return law if (temperature, top_k, top_p) == (1, 0, 1) else Warp(law, temperature, top_k, top_p)
