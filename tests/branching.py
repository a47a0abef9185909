"""Branching: a double of Noise that follows every outcome of every draw, so that a sampler's law comes out exactly.

A path is a list of outcomes. The sampler is run on a batch of paths, one image (or `members` images) each; a draw
beyond the end of a path's list takes the first outcome and leaves a new path for every other. A path's weight is the
probability of its outcomes; the law is the weights summed by the codes that came out.

What a draw with two outcomes knows of its key's one uniform number u is an interval: u < p, then u < p' of the same
key, ... split it. A race of two tokens is such a draw, because log p + g is greatest at token 1 iff a function of
the noise, uniform in (0, 1), is below p(1). So noise that a sampler uses twice, rightly or wrongly, is followed
exactly. Draws with more outcomes must be made once for each key, or again from the same law.

Draws whose outcome the sampler cannot use are not branched but answered arbitrarily: a residual of a guess that was
accepted, a guess of what was just committed. That is safe: were one used, the law would come out wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointillist.models.dist import Categorical
from pointillist.sampling import ancestral, speculative
from pointillist.sampling.drafters import jacobi, model
from pointillist.sampling.laws import Law
from pointillist.sampling.noise import Noise
from pointillist.sampling.rules import mrs
from pointillist.sampling.trace import Trace

DEPTH, CHUNK, NEVER, LEAST = 96, 20_000, 10**6, 1e-13


class Branching:
    """tape [P, DEPTH] outcomes of P paths, of which the first given [P] are set; rank [N] is each slot's step."""

    def __init__(self, tape: np.ndarray, given: np.ndarray, rank: np.ndarray, books: int = 1, members: int = 1) -> None:
        self.tape, self.given, self.rank, self.books, self.members = tape, given, rank, books, members
        self.depth, self.weight, self.left = np.zeros_like(given), np.ones(len(tape)), []
        images, slots = len(tape) * members, len(rank)
        self.keys = (images, int(rank.max()) + 3, slots * books)  # image, pass, slot and book
        self.intervals: dict[str, np.ndarray] = {}
        self.outcomes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.verifying, self.length = False, np.zeros(images, int)
        self.asked, self.accepted = np.zeros((images, slots), bool), np.zeros((images, slots * books), bool)
        self.rejected = np.full(images, NEVER)  # step of the first guess rejected in this pass

    def recalling(self) -> Branching:
        return self

    # ------------------------------------------------------------------------------------------- what the law tells

    def query(self, images: Tensor, slots: Tensor) -> None:
        rows, slots = images.numpy()[:, None], slots.flatten(1).numpy()
        self.asked[np.broadcast_to(rows, slots.shape)[slots >= 0], slots[slots >= 0]] = True
        self.verifying, self.rejected[:], self.accepted[:] = True, NEVER, False

    def commit(self, images: Tensor, length: Tensor) -> None:
        self.verifying, self.length[images.numpy()] = False, length.numpy()

    # -------------------------------------------------------------------------------------------------------- Noise

    def uniform(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor:
        assert stream == "order", f"{stream}: a sampler must draw by race, below or choice"
        return Noise(0).uniform(stream, torch.zeros_like(images), slots, tokens)  # one order for all

    def race(self, stream: str, logits: Tensor, images: Tensor, slots: Tensor) -> Tensor:
        laws = logits.double().softmax(-1).flatten(1, -2).numpy()
        if logits.shape[-1] == 2:
            return self._columns(self._thresholds, stream, laws[..., 1], images, slots).long()
        return self._columns(self._once, stream, laws, images, slots)

    def below(self, stream: str, probability: Tensor, images: Tensor, slots: Tensor) -> Tensor:
        return self._columns(self._thresholds, stream, probability.flatten(1).numpy(), images, slots).bool()

    def choice(self, stream: str, count: int, images: Tensor, slots: Tensor) -> Tensor:
        laws = np.full((*slots.flatten(1).shape, count), 1 / count)
        return self._columns(self._once, stream, laws, images, slots)

    # ----------------------------------------------------------------------------------------------------- branching

    def _columns(self, draw: Callable, stream: str, laws: np.ndarray, images: Tensor, slots: Tensor) -> Tensor:
        """Draws one after another, all paths at once: laws [B, n, ...] of keys slots [B, ...] with n entries."""
        keys, images = slots.flatten(1).numpy(), images.numpy()
        found, turn = np.zeros(keys.shape, int), occurrence(images // self.members)
        for column in range(keys.shape[1]):
            number = (keys[:, column] + 2**31) >> 32
            key = keys[:, column] - (number << 32)
            for now in range(turn.max(initial=0) + 1):  # rows of one path
                rows = (turn == now) & self._matters(stream, images, key)
                at = images[rows], number[rows], key[rows]
                found[rows, column] = draw(stream, laws[rows, column], at)
                if stream.startswith("accept"):
                    self._note(stream, at, found[rows, column] > 0)
        return torch.from_numpy(found).view(slots.shape)

    def _matters(self, stream: str, images: np.ndarray, key: np.ndarray) -> np.ndarray:
        """[B] bool: could the outcome be used?"""
        slot, step = key.clip(0) // self.books, self.rank[key.clip(0) // self.books]
        if stream in ("first guess", "resample"):  # not of slots that a law was known for
            return (key >= 0) & ~self.asked[images, slot]
        if not self.verifying:
            return (key >= 0) & (step >= self.length[images])
        if stream == "code":
            return (key >= 0) & (self.rejected[images] == NEVER)
        return (key >= 0) & (step <= self.rejected[images]) & ~self.accepted[images, key.clip(0)]

    def _note(self, stream: str, at: tuple, accepted: np.ndarray) -> None:
        images, _, key = at
        step = self.rank[key // self.books]
        self.accepted[images, key] |= accepted
        found = np.where(accepted, NEVER, step)
        another_way = stream != "accept" and not stream.endswith(" 0")
        self.rejected[images] = found if another_way else np.minimum(self.rejected[images], found)

    def _thresholds(self, stream: str, threshold: np.ndarray, at: tuple) -> np.ndarray:
        """u < threshold?, for the u of a key, of which an interval is known."""
        if stream not in self.intervals:
            self.intervals[stream] = np.stack([np.zeros(self.keys), np.ones(self.keys)])
        low, high = self.intervals[stream]
        a, b = low[at], high[at]
        chance = ((threshold - a) / (b - a)).clip(0, 1)
        below = self._branch(at[0] // self.members, np.stack([1 - chance, chance], 1)) > 0
        low[at] = np.where(below, a, np.maximum(a, threshold))
        high[at] = np.where(below, np.minimum(b, threshold), b)
        return below

    def _once(self, stream: str, laws: np.ndarray, at: tuple) -> np.ndarray:
        if stream not in self.outcomes:
            self.outcomes[stream] = np.full(self.keys, -1), np.zeros((*self.keys, laws.shape[-1]))
        outcomes, drawn_from = self.outcomes[stream]
        again = outcomes[at] >= 0
        assert np.abs(drawn_from[at] - laws)[again].max(initial=0) < 1e-12, f"{stream}: one key, two laws"
        images, number, key = (index[~again] for index in at)
        outcomes[images, number, key] = self._branch(images // self.members, laws[~again])
        drawn_from[images, number, key] = laws[~again]
        return outcomes[at]

    def _branch(self, paths: np.ndarray, chances: np.ndarray) -> np.ndarray:
        """Outcomes [r] of draws of different paths [r] with chances [r, C]."""
        possible = chances > LEAST
        outcome, several = possible.argmax(1), possible.sum(1) > 1
        path, chances, possible = paths[several], chances[several], possible[several]
        depth = self.depth[path]
        assert depth.max(initial=0) < DEPTH, "too many draws on a path"
        new, first = depth >= self.given[path], outcome[several]
        for other in range(chances.shape[1]):
            rows = new & possible[:, other] & (first != other)
            tape = self.tape[path[rows]]
            tape[np.arange(len(tape)), depth[rows]] = other
            self.left.append((tape, depth[rows] + 1))
        outcome[several] = np.where(new, first, self.tape[path, depth])
        assert possible[np.arange(len(path)), outcome[several]].all(), "a path met other draws when it was run again"
        self.tape[path, depth] = outcome[several]
        self.weight[path] *= chances[np.arange(len(path)), outcome[several]]
        self.depth[path] += 1
        return outcome


def occurrence(paths: np.ndarray) -> np.ndarray:
    """[B] how often each row's path has come before it."""
    order = paths.argsort(kind="stable")
    place = np.arange(len(paths))
    first = np.maximum.accumulate(np.where(np.diff(paths[order], prepend=-1) != 0, place, 0))
    found = np.empty_like(place)
    found[order] = place - first
    return found


@dataclass
class Watched(Law):
    """A law that tells the double when a pass begins and what it committed."""

    noise: Any = None

    def query(self, state: Any, slots: Tensor, draft: Tensor | None = None, tree: Any = None) -> Any:
        self.noise.query(state.images, slots)
        return self.generator.query(state, slots, draft, tree)

    def commit(self, state: Any, codes: Tensor, keep: Tensor | int, path: Tensor | None = None) -> None:
        self.generator.commit(state, codes, keep, path)
        self.noise.commit(state.images, state.length)


def sampled_law(sample: Callable, law: Any, conds: tuple[int, ...] = (0,)) -> np.ndarray:
    """[V^N] the law of what sample(law, cond, noise, images) returns; with several conds, the joint law [V^N, V^N, ..]
    of as many images of one batch."""
    books, rank, joint = len(law.spec.vocab), rank_of(law), np.zeros([images_of(law)] * len(conds))
    tape, given = np.zeros((1, DEPTH), np.uint8), np.zeros(1, int)
    while len(tape):
        noise = Branching(tape[:CHUNK], given[:CHUNK], rank, books, len(conds))
        images = torch.arange(len(noise.tape) * len(conds))
        codes = sample(Watched(law, noise), torch.tensor(conds).repeat(len(noise.tape)), noise, images)
        np.add.at(joint, tuple(number_of(codes, law).view(-1, len(conds)).T.numpy()), noise.weight)
        tapes, lengths = zip(*noise.left, strict=True) if noise.left else ((), ())
        tape, given = np.concatenate([*tapes, tape[CHUNK:]]), np.concatenate([*lengths, given[CHUNK:]])
    return joint


def rank_of(law: Any) -> np.ndarray:
    """[N] the step of each slot, in the one order that `Branching` gives all images."""
    one = torch.zeros(1, dtype=torch.long)
    groups = law.groups(law.start(one, one, Noise(0)))
    rank = np.empty(law.plan.num_codes, int)
    for step, group in enumerate(groups):
        rank[group[0].numpy()] = step
    return rank


def images_of(law: Any) -> int:
    """How many images there are."""
    return int(np.prod(law.spec.vocab)) ** law.plan.num_codes


def number_of(codes: Tensor, law: Any) -> Tensor:
    """[B] the number of each image [B, N] or [B, N, K] among all."""
    digits = torch.tensor(law.spec.vocab * law.plan.num_codes)
    return (codes.flatten(1) * (digits.cumprod(0) // digits)).sum(1)


@torch.no_grad()
def exact_law(law: Any, cond: int = 0) -> np.ndarray:
    """[V^N] the unit's own law by the chain rule, one group after another, for every image there is."""
    digits = [torch.arange(v) for v in law.spec.vocab] * law.plan.num_codes
    codes = torch.cartesian_prod(*digits[::-1]).flip(-1).view(-1, law.plan.num_codes, len(law.spec.vocab)).squeeze(-1)
    images, total = torch.arange(len(codes)), torch.zeros(len(codes), dtype=torch.float64)
    state = law.start(torch.full_like(images, cond), torch.zeros_like(images), Noise(0))
    for group in law.groups(state):
        dist = law.query(state, group[:, None])
        assert isinstance(dist, Categorical)
        right = codes[images[:, None], group][:, None]
        total += dist.log_prob(right).flatten(1).sum(1)
        law.commit(state, right, keep=1)
    return total.exp().numpy()


def distance(p: np.ndarray, q: np.ndarray) -> float:
    """Total variation; what is missing from a sum of 1 counts."""
    return float(np.abs(p - q).sum() / 2)


# ---------------------------------------------------------------------------------------------------------- samplers


def options(rule: Any = None, coupling: str = "redraw", window: int = 3, ways: int = 1, init: str = "random") -> Any:
    """Of a speculative sampler: rule None is mrs; coupling "model" lets a second law draft."""
    drafter = model.Options() if coupling == "model" else jacobi.Options(coupling=coupling, init=init)
    return speculative.Options(rule=rule or mrs.Options(), drafter=drafter, window=window, ways=ways)


def draw(how: Any, law: Any, cond: Tensor, noise: Any, images: Tensor) -> Tensor:
    module = speculative if isinstance(how, speculative.Options) else ancestral
    return module.sample(law, cond, noise, images, Trace(), how)


def error(how: Any, law: Any) -> float:
    """Total variation of a sampler's law from the unit's own."""
    return distance(sampled_law(partial(draw, how), law), exact_law(law))
