"""Dist: what a query returns, the law of the next codes. It can be drawn from, guided, warped and conditioned.

Codes are [B, m, g] for one book, [B, m, g, K] for K books, [B, m, g, C] where they are continuous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Noise(Protocol):
    """A stateless source of randomness (pointillist.sampling.noise.Noise)."""

    def uniform(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor: ...

    def gumbel(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor: ...

    def normal(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor: ...

    def race(self, stream: str, logits: Tensor, images: Tensor, slots: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Cut:
    """How a law is warped: numbers, or tensors [B, m] with one for each group. 0, 1 and 0 turn the cuts off."""

    temperature: float | Tensor = 1.0
    top_k: float | Tensor = 0  # rounded
    top_p: float | Tensor = 1.0
    min_p: float | Tensor = 0.0


class Dist(Protocol):
    """passes: evaluations of the network that the query and one draw take together.

    guided   rows [0, B) conditional, [B, 2B) unconditional -> the guided law of B rows, with scale [B, m]
    warped   temperature, top-k, top-p and min-p (a flow: temperature alone, of the noise it starts from)
    given    the law of codes of which `known` [B, m, g] are fixed to `codes`
    """

    passes: int

    def sample(self, noise: Noise, images: Tensor, slots: Tensor) -> Tensor: ...

    def log_prob(self, codes: Tensor) -> Tensor: ...

    def guided(self, scale: Tensor) -> Dist: ...

    def warped(self, cut: Cut) -> Dist: ...

    def given(self, codes: Tensor, known: Tensor) -> Dist: ...


# ----------------------------------------------------------------------------------------------------------- discrete


@dataclass
class Categorical:
    """Independent categorical laws: logits [B, m, g, V], or [B, m, g, K, V] for K independent books.

    fp32 or fp64; -inf excludes a token.
    """

    logits: Tensor
    passes = 1

    def sample(self, noise: Noise, images: Tensor, slots: Tensor) -> Tensor:
        """Draw codes: argmax_v(log p_v + gumbel(image, slot, v)), in fp64 as the race's tail needs it.

        images [B] and slots [B, m, g] key the noise: an image's codes depend neither on its batch nor on the sampler.
        """
        keys = slots if self.logits.ndim == 4 else book_keys(slots, self.logits.shape[3])
        return noise.race("code", self.logits, images, keys)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Natural-log probability [B, m, g] of codes, all books together."""
        chosen = torch.log_softmax(self.logits, dim=-1).gather(-1, codes[..., None]).squeeze(-1)
        return chosen if self.logits.ndim == 4 else chosen.sum(-1)

    def guided(self, scale: Tensor) -> Categorical:
        return Categorical(guide(self.logits, scale))

    def warped(self, cut: Cut) -> Categorical:
        return Categorical(warp(self.logits, cut))

    def given(self, codes: Tensor, known: Tensor) -> Categorical:
        certain = torch.full_like(self.logits, float("-inf")).scatter_(-1, codes[..., None], 0.0)
        known = known.view(*known.shape, *[1] * (self.logits.ndim - known.ndim))
        return Categorical(torch.where(known, certain, self.logits))


@dataclass
class Chain:
    """K books one after another: p(c_1) p(c_2 | c_1) .. from the hidden state [R, m, g, D] of a position.

    next_book(hidden, codes [R, m, g, k]) gives the logits [R, m, g, V] of book k. `law` turns the logits of the
    network's rows R into those of B images: guidance and warping, book by book.
    """

    hidden: Tensor
    next_book: Callable[[Tensor, Tensor], Tensor]
    books: int
    law: Callable[[Tensor], Tensor] = lambda logits: logits
    streams: int = 1  # R = streams * B
    passes = 1

    def sample(self, noise: Noise, images: Tensor, slots: Tensor) -> Tensor:
        keys = book_keys(slots, self.books)
        codes = slots.new_empty(*slots.shape, 0)
        for k in range(self.books):
            code = noise.race("code", self._logits(codes), images, keys[..., k])
            codes = torch.cat([codes, code[..., None]], dim=-1)
        return codes

    def log_prob(self, codes: Tensor) -> Tensor:
        """[B, m, g] of codes [B, m, g, K]."""
        books = (self._logits(codes[..., :k]).log_softmax(-1) for k in range(self.books))
        return sum(p.gather(-1, codes[..., k, None]).squeeze(-1) for k, p in enumerate(books))

    def _logits(self, codes: Tensor) -> Tensor:
        return self.law(self.next_book(self.hidden, codes.repeat(self.streams, 1, 1, 1)))

    def guided(self, scale: Tensor) -> Chain:
        return replace(self, law=lambda logits: guide(self.law(logits), scale), streams=2 * self.streams)

    def warped(self, cut: Cut) -> Chain:
        return replace(self, law=lambda logits: warp(self.law(logits), cut))

    def given(self, codes: Tensor, known: Tensor) -> Given:
        return Given(self, codes, known)


def book_keys(slots: Tensor, books: int) -> Tensor:
    """[..., K] noise keys of the books at slots [...]."""
    return slots[..., None] * books + torch.arange(books, device=slots.device)


def guide(logits: Tensor, scale: Tensor) -> Tensor:
    """unconditional + scale * (conditional - unconditional) of logits [2B, m, ...] with scale [B, m]."""
    cond, null = logits.chunk(2)
    scale = scale.view(*scale.shape, *[1] * (cond.ndim - 2)).to(cond.dtype)
    guided = (cond - null).mul_(scale).add_(null)
    # -inf - -inf is not a number; only books that are smaller than others have such logits
    return guided if logits.ndim == 4 else torch.where(null > float("-inf"), guided, null)


def warp(logits: Tensor, cut: Cut) -> Tensor:
    """Log-probabilities [B, m, ..., V] up to a constant, -inf where excluded. The input is left untouched.

    temperature 0 is greedy; top-k keeps every token that ties with the k-th; top-p keeps the token that crosses the
    mass, as LlamaGen does; min-p keeps tokens with at least that share of the greatest probability.
    """
    temperature, top_k, top_p, min_p = (_along(v, logits) for v in (cut.temperature, cut.top_k, cut.top_p, cut.min_p))
    if not _any(temperature != 0):
        return _greedy(logits)
    if _varies(temperature):
        warped = logits / torch.where(temperature == 0, 1, temperature)
    else:
        warped = logits if temperature == 1 else logits / temperature
    if _any(top_k > 0):
        warped = _top_k(warped, top_k)
    if _any(top_p < 1):
        ordered, index = warped.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1)
        before = F.pad(mass.cumsum(-1)[..., :-1], (1, 0))  # not cumsum - mass, which rounds: tied logits may lie on p
        excluded = (before > top_p) & (torch.as_tensor(top_p) < 1)
        warped = warped.masked_fill(excluded.scatter(-1, index, excluded), float("-inf"))
    if _any(min_p > 0):
        share = (warped - warped.amax(-1, keepdim=True)).exp()
        warped = warped.masked_fill(share < min_p, float("-inf"))
    return torch.where(temperature == 0, _greedy(logits), warped) if _varies(temperature) else warped


def _greedy(logits: Tensor) -> Tensor:
    """All mass on the greatest, the lowest token id on ties."""
    best = torch.full_like(logits, float("-inf"))
    return best.scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)


def _top_k(logits: Tensor, top_k: float | Tensor) -> Tensor:
    most = min(round(float(top_k.max()) if _varies(top_k) else top_k), logits.shape[-1])
    if not _varies(top_k):
        return logits.masked_fill(logits < kth_greatest(logits, most), float("-inf"))
    best = logits.topk(most).values
    rank = (top_k.round().long().clamp(1, most) - 1).expand(*logits.shape[:-1], 1)
    return logits.masked_fill((logits < best.gather(-1, rank)) & (top_k > 0), float("-inf"))


def kth_greatest(values: Tensor, k: int) -> Tensor:
    """[..., 1] of values [..., V]. On a CPU numpy selects it ten times faster than topk, which sorts the k."""
    if values.device.type != "cpu":
        return values.topk(k, sorted=False).values.amin(-1, keepdim=True)
    place = values.shape[-1] - k
    return torch.from_numpy(np.partition(values.detach().numpy(), place, axis=-1)[..., place : place + 1])


def _along(value: float | Tensor, logits: Tensor) -> float | Tensor:
    """Values [B, m] as [B, m, 1, ..., 1]; a number stays one."""
    return value.view(*value.shape, *[1] * (logits.ndim - value.ndim)) if _varies(value) else value


def _varies(value: float | Tensor) -> bool:
    return isinstance(value, Tensor)


def _any(condition: bool | Tensor) -> bool:
    return bool(condition.any()) if isinstance(condition, Tensor) else condition


# --------------------------------------------------------------------------------------------------------- continuous


@dataclass
class Flow:
    """Continuous codes [B, m, g, C]: noise x_1 ~ N(0, I) carried to x_0 by dx/dt = velocity(x, t), t from 1 to 0.

    Flow matching (Lipman et al., arXiv 2210.02747) on the straight path x_t = (1 - t) x_0 + t x_1, whose velocity is
    x_1 - x_0. velocity(x [B, m, g, C], t) -> [B, m, g, C]; `steps` equal steps of Euler or Heun.

    inner  evaluations happen inside a head, not in the network: a draw then costs one pass
    """

    velocity: Callable[[Tensor, float], Tensor]
    channels: int
    steps: int
    heun: bool = False
    inner: bool = False
    temperature: float | Tensor = 1.0  # or one for each group, [B, m]

    @property
    def passes(self) -> int:
        return 1 if self.inner else 2 * self.steps - 1 if self.heun else self.steps

    def sample(self, noise: Noise, images: Tensor, slots: Tensor) -> Tensor:
        images = images.view(-1, 1, 1).expand_as(slots)
        x = noise.normal("code", images, slots, self.channels)  # [B, m, g, C] fp64
        x = x * _along(self.temperature, x)
        times = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64).tolist()
        for t, until in pairwise(times):
            v = self.velocity(x, t)
            ahead = x + (until - t) * v
            if self.heun and until > 0:
                v = (v + self.velocity(ahead, until)) / 2
                ahead = x + (until - t) * v
            x = ahead
        return x

    def log_prob(self, codes: Tensor) -> Tensor:
        raise ValueError("a flow's density is not computed here; use a unit with discrete codes for likelihoods")

    def guided(self, scale: Tensor) -> Flow:
        def velocity(x: Tensor, t: float) -> Tensor:
            return guide(self.velocity(torch.cat([x, x]), t), scale)

        return replace(self, velocity=velocity)

    def warped(self, cut: Cut) -> Flow:
        assert (cut.top_k, cut.top_p, cut.min_p) == (0, 1, 0), "continuous codes have no top_k, top_p and min_p"
        return replace(self, temperature=cut.temperature)

    def given(self, codes: Tensor, known: Tensor) -> Given:
        return Given(self, codes, known)


@dataclass
class Given:
    """Draws from `law`, then puts the known codes in their places."""

    law: Chain | Flow
    codes: Tensor
    known: Tensor

    @property
    def passes(self) -> int:
        return self.law.passes

    def sample(self, noise: Noise, images: Tensor, slots: Tensor) -> Tensor:
        drawn = self.law.sample(noise, images, slots)
        return torch.where(self.known[..., None], self.codes.to(drawn.dtype), drawn)

    def log_prob(self, codes: Tensor) -> Tensor:
        same = torch.where((codes == self.codes).all(-1), 0.0, float("-inf"))
        return torch.where(self.known, same, self.law.log_prob(codes))


def at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
