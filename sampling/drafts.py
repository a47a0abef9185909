"""What drafters and rules say to each other: guesses, the randomness of a pass, and what became of the guesses.

L groups are guessed in a pass, on `ways` ways that part at the first of them. The target's laws come for the nodes of
a tree: the next group, then the groups after each guess of each way, so m = L + 1 groups along a way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist.models.dist import Categorical, Dist, book_keys
from pointillist.models.tree import Tree
from pointillist.sampling.noise import SPAN, Noise, each
from pointillist.sampling.trace import Trace


@dataclass
class Guess:
    """codes [B, ways, L, g] or [B, ways, L, g, K], and the laws they were drawn from.

    laws  [B, ways, L, g, V] or [B, ways, L, g, K, V]: probabilities of each code given all codes before it; at the
          first group those of later ways also given that the ways before hold other codes. None where no rule asks.
    ready [B] bool: images that have a guess at all; None where all have.
    """

    codes: Tensor
    laws: Tensor | None = None
    ready: Tensor | None = None

    @property
    def ways(self) -> int:
        return self.codes.shape[1]

    @property
    def length(self) -> int:
        return self.codes.shape[2]

    @property
    def is_tree(self) -> bool:
        return self.ways > 1 and self.length > 0

    def tree(self) -> Tree:
        return Tree.paths(self.ways, self.length)

    def nodes(self, way: Tensor) -> Tensor:
        """[B, m] nodes of the tree along way [B]: the root, then the way's own."""
        own = 1 + way[:, None] * self.length + torch.arange(self.length, device=way.device)
        return torch.cat([torch.zeros_like(way)[:, None], own], dim=1)


@dataclass
class Setting:
    """What a drafter works for: `with_laws` says whether the rule asks for the laws of its guesses."""

    law: Any
    cond: Tensor
    noise: Noise
    images: Tensor
    groups: Tensor
    trace: Trace
    ways: int
    with_laws: bool

    def select(self, rows: Tensor) -> None:
        """Go on with some of the images."""
        self.cond, self.images, self.groups = self.cond[rows], self.images[rows], self.groups[rows]

    def refill(self, rows: Tensor, cond: Tensor, images: Tensor, groups: Tensor) -> None:
        """Other images are in rows [b] now."""
        self.cond, self.images = self.cond.index_copy(0, rows, cond), self.images.index_copy(0, rows, images)
        self.groups = self.groups.index_copy(0, rows, groups)


@dataclass
class Draws:
    """The randomness of one pass: the pass number [B] of images [B], each counting its own from 0."""

    noise: Noise
    images: Tensor
    number: Tensor

    def of(self, rows: Tensor) -> Draws:
        """Of images rows [b]; a row may be taken more than once."""
        return Draws(self.noise, self.images[rows], self.number[rows])

    def fixed(self, dist: Dist, slots: Tensor) -> Tensor:
        """Draws from laws of slots [B, n, g] by the noise of ancestral decoding, in every pass the same."""
        return dist.sample(self.noise, self.images, slots)

    def fresh(self, stream: str, laws: Tensor, slots: Tensor, where: Tensor) -> Tensor:
        """Codes [B, n, g, (K)] for slots [B, n, g]: draws from laws [r, V], probabilities, at the r entries of
        where [B, n, g, (K)] that are true, by noise of this pass alone; 0 elsewhere. Noise is dear."""
        keys = self._keys(slots, where.shape[3:])
        drawn, images = torch.zeros_like(keys), each(self.images, keys)
        drawn[where] = self.noise.race(stream, laws.log()[:, None], images[where], keys[where][:, None])[:, 0]
        return drawn

    def below(self, stream: str, probability: Tensor, slots: Tensor) -> Tensor:
        """bool [B, n, g, (K)] of slots [B, n, g], true with the given probability, by noise of this pass alone."""
        return self.noise.below(stream, probability, self.images, self._keys(slots, probability.shape[3:]))

    def _keys(self, slots: Tensor, books: tuple[int, ...]) -> Tensor:
        """A code is put to the test in several passes, each with randomness of its own."""
        keys = book_keys(slots, *books) if books else slots
        return keys + each(self.number, keys) * SPAN


@dataclass
class Verdict:
    """What became of a guess of L groups.

    way        [B] the way that is followed; the rest is along it
    codes      [B, m, g, ...] right up to the first group of which a guess was rejected
    kept       [B, L, g, ...] bool: guesses that the rule accepts, were all before them right
    variation  [B, L, g, ...] total variation distance between the law of the code that came out and the target's,
               where a guess was put to the test; None where it is 0
    ready      [B] bool: images that had a guess; None where all had
    """

    way: Tensor
    codes: Tensor
    kept: Tensor
    variation: Tensor | None = None
    ready: Tensor | None = None

    @property
    def accepted(self) -> Tensor:
        """[B, L] bool by group."""
        return self.kept.flatten(2).all(-1)

    @property
    def reached(self) -> Tensor:
        """[B, L] bool: guesses that were put to the test, none before them being rejected."""
        tested = reached(self.accepted)
        return tested if self.ready is None else tested & self.ready[:, None]

    def right(self) -> Tensor:
        """[B] groups that can be committed: the accepted ones and the one after them."""
        return 1 + self.accepted.cumprod(1).sum(1)

    def only(self, ready: Tensor, first: Tensor) -> Verdict:
        """The same for images that had a guess, ready [B]; others get a first group, codes first [B, 1, g, ...]."""
        had = ready.view(-1, *[1] * (first.ndim - 1))
        codes = torch.cat([torch.where(had, self.codes[:, :1], first), self.codes[:, 1:]], dim=1)
        return replace(self, codes=codes, kept=self.kept & had, ready=ready)


def reached(accepted: Tensor) -> Tensor:
    """[B, L] bool: the entries before which all of accepted [B, L] is true."""
    return torch.cat([torch.ones_like(accepted[:, :1]), accepted[:, :-1]], dim=1).cumprod(1).bool()


def probabilities(dist: Dist) -> Tensor:
    """[B, n, g, (K,) V] fp64 of a law whose codes are independent given those of earlier groups."""
    assert isinstance(dist, Categorical), "this takes probabilities; check() refuses other laws"
    return dist.logits.double().softmax(-1)


def without(laws: Tensor, codes: Tensor) -> Tensor:
    """laws [..., V] given that their codes are not codes [...]; all others equally likely where nothing is left."""
    rest = laws.scatter(-1, codes[..., None], 0.0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, torch.ones_like(laws).scatter(-1, codes[..., None], 0.0))
    return rest / rest.sum(-1, keepdim=True)


def at_nodes(values: Tensor, nodes: Tensor) -> Tensor:
    """Entries [B, m, ...] of values [B, T, ...] at nodes [B, m]."""
    return values[torch.arange(len(nodes), device=nodes.device)[:, None], nodes]


def like(mask: Tensor, values: Tensor) -> Tensor:
    """mask [B, n, g] with axes of length 1 behind, to broadcast to values [B, n, g, ...]."""
    return mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim))


def padded(groups: list[Tensor]) -> Tensor:
    """Groups [B, g_s] of S steps as one tensor [B, S + 1, g], -1 where a step has fewer codes and behind the last."""
    most = max(group.shape[1] for group in groups)
    rows = [F.pad(group, (0, most - group.shape[1]), value=-1) for group in groups]
    return torch.stack([*rows, torch.full_like(rows[0], -1)], dim=1)


def window(groups: Tensor, length: Tensor, m: int) -> Tensor:
    """The m groups [B, m, g] after `length` [B] of padded groups."""
    index = length[:, None] + torch.arange(m, device=length.device)
    return at_nodes(groups, index.clamp_max(groups.shape[1] - 1))
