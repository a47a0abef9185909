"""Noise: stateless randomness. Every number is a hash of what it is for, so nothing depends on a batch's make-up.

An image's codes are the same for any batch size, order, process count or restart, and a sampler that rolls back has no
generator to roll back with it. Keys are the image's index, the code's slot and the token's id, never a batch row, a
step counter or a rank among sorted candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

SPAN = 2**32  # slots of one image, from -1 on
FEW = 0.5  # share of the tokens up to which a race picks out those that run
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed int64


@dataclass(frozen=True)
class Noise:
    """Noise of one seed. Streams ("code", "label", "order", ...) are independent of one another."""

    seed: int = 0

    def uniform(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor:
        """fp64 in (0, 1), never 0 or 1: images [...] and slots [...] int64 -> [..., tokens]."""
        token = torch.arange(tokens, dtype=torch.int64, device=images.device)
        return _uniform(self._key(stream, images, slots)[..., None], token)

    def _key(self, stream: str, images: Tensor, slots: Tensor) -> Tensor:
        """int64 [...], the hash of all but the token."""
        name = int.from_bytes(sha256(f"{self.seed}/{stream}".encode()).digest()[:8], signed=True)
        key = torch.full_like(images, name)
        for index in (images, slots):
            key = _mix(key ^ _mix(index))
        return key

    def gumbel(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor:
        """fp64 standard Gumbel numbers, as `uniform`: argmax(log p + gumbel) is a draw from p."""
        return _gumbel(self.uniform(stream, images, slots, tokens))

    def normal(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor:
        """fp64 standard normal numbers, as `uniform`."""
        return torch.special.ndtri(self.uniform(stream, images, slots, tokens))

    def race(self, stream: str, logits: Tensor, images: Tensor, slots: Tensor) -> Tensor:
        """One draw a slot from softmax(logits [*slots, V]): argmax(logits + gumbel), in fp64 as the tail needs it.

        images [B] and slots [B, ...] key the race: other logits under the same keys meet the same noise. On a CPU only
        tokens that can win are given any; the winner is the same.
        """
        images = each(images, slots)
        if logits.device.type == "cpu":
            running = np.flatnonzero(logits.detach().numpy() > -np.inf)
            if len(running) < FEW * logits.numel():
                return self._among(torch.from_numpy(running), stream, logits, images, slots)
        return (logits.double() + self.gumbel(stream, images, slots, logits.shape[-1])).argmax(-1)

    def _among(self, running: Tensor, stream: str, logits: Tensor, images: Tensor, slots: Tensor) -> Tensor:
        """`race` among some of the tokens, which stand at `running` [n] of all logits in a row."""
        tokens, row = logits.shape[-1], running // logits.shape[-1]
        noise = _gumbel(_uniform(self._key(stream, images, slots).flatten()[row], running - row * tokens))
        scores = torch.full_like(logits, float("-inf"), dtype=torch.float64)
        scores.view(-1)[running] = logits.detach().reshape(-1)[running].double() + noise
        return torch.from_numpy(scores.numpy().argmax(-1))  # ten times faster than torch's

    def below(self, stream: str, probability: Tensor, images: Tensor, slots: Tensor) -> Tensor:
        """bool [B, ...]: true with the probability given; of images [B] and slots [B, ...]."""
        return self.uniform(stream, each(images, slots), slots, 1)[..., 0] < probability

    def choice(self, stream: str, count: int, images: Tensor, slots: Tensor) -> Tensor:
        """int64 [B, ...], each of 0..count-1 equally likely; of images [B] and slots [B, ...]."""
        return (self.uniform(stream, each(images, slots), slots, 1)[..., 0] * count).long()

    def recalling(self) -> Noise:
        """The same numbers, for samplers that ask for most of them again and again."""
        return Recalling(self.seed)


@dataclass(frozen=True)
class Recalling(Noise):
    """Noise that keeps the Gumbel numbers of its latest call for stream "code": a window moves on by a few slots."""

    latest: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def _among(self, running: Tensor, stream: str, logits: Tensor, images: Tensor, slots: Tensor) -> Tensor:
        """Among all: which tokens run changes from pass to pass, and what is kept serves every one."""
        return (logits.double() + self.gumbel(stream, images, slots, logits.shape[-1])).argmax(-1)

    def gumbel(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor:
        if stream != "code":
            return super().gumbel(stream, images, slots, tokens)
        keys, where = (images * SPAN + slots + 1).unique(return_inverse=True)  # ascending
        found = torch.empty(len(keys), tokens, dtype=torch.float64, device=keys.device)
        new = torch.ones_like(keys, dtype=torch.bool)
        if self.latest and self.latest["values"].shape[1] == tokens:
            old = self.latest["keys"]
            place = torch.searchsorted(old, keys).clamp_max(len(old) - 1)
            new = old[place] != keys
            found[~new] = self.latest["values"][place[~new]]
        found[new] = super().gumbel(stream, keys[new] // SPAN, keys[new] % SPAN - 1, tokens)
        self.latest.update(keys=keys, values=found)
        return found[where]


def each(images: Tensor, slots: Tensor) -> Tensor:
    """Images [B] for every one of slots [B, ...]."""
    return images.view(-1, *[1] * (slots.ndim - 1)).expand_as(slots)


def _uniform(key: Tensor, token: Tensor) -> Tensor:
    """fp64 in (0, 1) of the hash of key and token, int64 of shapes that fit each other."""
    return (_shift(_mix(key + (token + 1) * _GOLDEN), 11).double() + 0.5) * 2.0**-53


def _gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform))


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser (Steele, Lea & Flood, OOPSLA 2014) in wrapping int64 arithmetic."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
