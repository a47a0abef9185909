"""First guesses: what a slot is guessed to hold when it enters the window, before any law is known for it."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist.models.dist import Noise, book_keys
from pointillist.models.plan import neighbours
from pointillist.sampling.drafts import at_nodes, like

Init = Literal["random", "left", "above", "resample"]


class FirstGuesses:
    """random: any code, all equally likely (declared so: the publications call it certain, and accept it less often).
    left, above: a copy of the neighbour's newest code, if it is decoded earlier; else random.

    newest [B, N + 1, ...] is the newest code of every slot, rank [B, N + 1] its step.
    """

    def __init__(self, init: Init, law: Any, noise: Noise, images: Tensor, groups: Tensor) -> None:
        self.noise, self.images, self.vocab = noise, images, law.spec.vocab
        books = len(self.vocab)
        known = torch.arange(max(self.vocab), device=images.device) < torch.tensor(self.vocab)[:, None].to(
            images.device
        )
        uniform = known.double() / known.sum(-1, keepdim=True)  # [K, V]
        self.uniform = uniform if books > 1 else uniform[0]
        length = law.plan.num_codes
        self.newest = images.new_zeros(len(images), length + 1, *([books] if books > 1 else []))
        self.beside = F.pad(neighbours(law.spec, init), (0, 1), value=-1) if init in ("left", "above") else None
        self.rank = ranks(groups, length)

    def remember(self, slots: Tensor, codes: Tensor) -> None:
        """Codes [B, n, g, ...] of slots [B, n, g]; -1 goes to the last, unread row."""
        if self.beside is not None:
            rows = torch.arange(len(slots), device=slots.device)[:, None, None]
            self.newest[rows, slots % self.newest.shape[1]] = codes

    def __call__(self, slots: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, n, g, (K)] for those slots [B, n, g] whose group is fresh [B, n] bool, anything for the others; and
        the laws [B, n, g, (K,) V] they were drawn from."""
        codes = self._random(slots)
        laws = self.uniform.expand(*codes.shape, -1)
        if self.beside is None:
            return codes, laws
        copied = torch.zeros_like(codes, dtype=torch.bool)
        for i in range(slots.shape[1]):  # a copy may be copied again
            here = slots[:, i : i + 1].masked_fill(~fresh[:, i : i + 1, None], -1)
            beside = self.beside.to(slots.device)[here % len(self.beside)]
            rows = torch.arange(len(slots), device=slots.device)[:, None, None]
            earlier = self.rank[rows, beside % len(self.beside)] < self.rank[rows, here % len(self.beside)]
            can = like((beside >= 0) & (here >= 0) & earlier, codes)
            codes[:, i : i + 1] = torch.where(can, self.newest[rows, beside], codes[:, i : i + 1])
            copied[:, i : i + 1] = can
            self.remember(here, codes[:, i : i + 1])
        return codes, torch.where(copied[..., None], F.one_hot(codes, laws.shape[-1]), laws)

    def _random(self, slots: Tensor) -> Tensor:
        if len(self.vocab) == 1:
            return self.noise.choice("first guess", self.vocab[0], self.images, slots)
        keys = book_keys(slots, len(self.vocab))
        books = [self.noise.choice("first guess", v, self.images, keys[..., k]) for k, v in enumerate(self.vocab)]
        return torch.stack(books, dim=-1)

    def select(self, rows: Tensor) -> None:
        self.images, self.newest, self.rank = self.images[rows], self.newest[rows], self.rank[rows]

    def refill(self, rows: Tensor, images: Tensor, groups: Tensor) -> None:
        """Rows [b] of images [B] and of their groups [B, S + 1, g] are other ones now."""
        self.images = images
        self.newest[rows], self.rank[rows] = 0, ranks(groups[rows], self.rank.shape[1] - 1)


def ranks(groups: Tensor, length: int) -> Tensor:
    """[B, length + 1] the step of every slot in groups [B, S + 1, g]; the last entry is padding's."""
    step = torch.arange(groups.shape[1], device=groups.device)[None, :, None].expand_as(groups)
    return groups.new_zeros(len(groups), length + 1).scatter_(1, groups.flatten(1) % (length + 1), step.flatten(1))


def recycled(old: Tensor, fresh: Tensor, kept: Tensor) -> Tensor:
    """Entries [B, n, ...] from `kept` [B] on of old [B, M, ...], and where there are no more, those of fresh."""
    index = kept[:, None] + torch.arange(fresh.shape[1], device=kept.device)
    there = index < old.shape[1]
    there = there.view(*there.shape, *[1] * (old.ndim - 2))
    return torch.where(there, at_nodes(old, index.clamp_max(old.shape[1] - 1)), fresh)
