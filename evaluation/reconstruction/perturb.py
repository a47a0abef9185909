"""Codes replaced by near ones: how much a decoder forgives (RobustTok, Qiu et al., arXiv 2503.08354).

Each code is, with probability alpha, replaced by one of its delta nearest codes, itself among them, all equally likely;
so alpha (1 - 1 / delta) of them change. pFID is the mean over a grid of (alpha, delta) of the FID between images and
what their perturbed codes decode to. Every code of every scale and book is treated on its own. Neighbours are those of
the code, as in the paper's text; the authors' training code takes those of the encoder's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from pointillist.sampling.noise import Noise

BASE = 4096  # codes of a book for which delta is meant. The paper scales with the size and does not state the base
LEAST = 2  # with one neighbour, itself, nothing would change
SEED = 0  # of the draws
ALPHAS, DELTAS = (0.9, 0.8, 0.7, 0.6, 0.5), (200, 280, 360)
BLOCK = 2**22  # distances that are in memory together
MOST = 2**28  # neighbours that are kept of a book: 1 GB


@dataclass(frozen=True)
class Grid:
    """The pairs (alpha, delta) that a score is the mean of; delta for a book of BASE codes."""

    alphas: tuple[float, ...] = ALPHAS
    deltas: tuple[int, ...] = DELTAS

    def check(self) -> None:
        """Raises ValueError for an empty grid, for numbers out of range or given twice."""
        if not self.alphas or not all(0 <= a <= 1 for a in self.alphas) or len(set(self.alphas)) < len(self.alphas):
            raise ValueError(f"pfid_alphas must be different numbers in 0..1, got [{_listed(self.alphas)}]")
        if not self.deltas or not all(1 <= d <= BASE for d in self.deltas) or len(set(self.deltas)) < len(self.deltas):
            raise ValueError(
                f"pfid_deltas must be different numbers in 1..{BASE}, got [{_listed(self.deltas)}]; they are meant for "
                f"{BASE} codes and scaled to the tokenizer's own number"
            )

    @property
    def cells(self) -> list[tuple[float, int]]:
        return list(product(self.alphas, self.deltas))

    def named(self, name: str) -> str:
        """ "pfid" for the full grid, else "pfid@0.9x200", and "pfid@0.9,0.5x200" for several."""
        is_full = set(self.alphas) == set(ALPHAS) and set(self.deltas) == set(DELTAS)
        return name if is_full else f"{name}@{_listed(self.alphas)}x{_listed(self.deltas)}"

    def card(self, vocab: Sequence[int]) -> dict:
        """JSON-ready, with the numbers of neighbours by the size of a book: scores compare between equal ones."""
        return {
            "alphas": list(self.alphas),
            "deltas": list(self.deltas),
            "base": BASE,
            "neighbours": {str(size): [scaled(delta, size) for delta in self.deltas] for size in sorted(set(vocab))},
            "seed": SEED,
        }


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{n:g}" for n in numbers)


def scaled(delta: int, vocab: int) -> int:
    """Neighbours in a book of `vocab` codes: in proportion, at least 2, at most all."""
    return min(max(round(delta * vocab / BASE), LEAST), vocab)


def codebooks(tokenizer: Any) -> list[Tensor]:
    """Each book's vectors [V, C]. Raises ValueError for a tokenizer that has none to show."""
    books = [getattr(tokenizer, "codebook", None)]
    if books[0] is None:
        inner = getattr(getattr(tokenizer, "quantizer", None), "books", [])
        device = next(tokenizer.parameters()).device
        books = [b.embed(torch.arange(b.vocab, device=device)) for b in inner]
    if len(books) != len(tokenizer.spec.vocab):
        raise ValueError("this tokenizer does not show the vectors of its codes, so their neighbours are not known; "
                         "leave out pfid and perturbed_psnr")  # fmt: skip
    return books


def neighbours(codebook: Tensor, delta: int) -> Tensor:
    """int32 [V, delta]: the nearest codes of each by Euclidean distance of codebook [V, C], nearest first.

    A code is its own first neighbour even where another has the same vector. Among equally far ones, of which a grid of
    levels has many, the lower number comes first, as far as float32 can tell that they are equal. Raises ValueError
    where there would be too many to keep.
    """
    size = len(codebook)
    assert 1 <= delta <= size, f"a code has 1..{size} neighbours, not {delta}"
    if size * delta > MOST:
        raise ValueError(f"{delta} neighbours of {size} codes are too many to keep; choose smaller pfid_deltas")
    vectors, number = codebook.detach().double(), torch.arange(size, device=codebook.device)
    found = torch.empty(size, delta, dtype=torch.int32, device=codebook.device)
    for rows in number.split(max(BLOCK // size, 1)):
        # the bits of a positive float32 rise with it: one integer orders by distance, then by number
        distance = torch.cdist(vectors[rows], vectors, compute_mode="donot_use_mm_for_euclid_dist").float()
        key = (distance.view(torch.int32).long() << 32) + number
        key.scatter_(1, rows[:, None], -1)
        found[rows] = key.topk(delta, largest=False).indices.int()
    return found


def perturb(
    codes: Tensor, images: Tensor, near: Sequence[Tensor], alpha: float, deltas: Sequence[int], noise: Noise
) -> Tensor:
    """Codes [B, N] or [B, N, books] of image numbers int64 [B], some replaced.

    near    a book's `neighbours` [V, at least its delta]
    deltas  how many of them may stand in, one number a book

    The draws belong to image and place: no batch changes them, and under another alpha or delta they are the same, so
    cells of a grid differ by these alone.
    """
    flat = codes.flatten(1)
    slots = torch.arange(flat.shape[1], device=codes.device).expand_as(flat)
    chosen = noise.below("perturbed", torch.tensor(alpha, dtype=torch.float64), images, slots).view_as(codes)
    books = codes.view(len(codes), -1, len(near)).unbind(-1)
    places = slots.view(len(codes), -1, len(near)).unbind(-1)
    drawn = [
        table[book, noise.choice("neighbour", delta, images, place)]
        for table, book, place, delta in zip(near, books, places, deltas, strict=True)
    ]
    return torch.where(chosen, torch.stack(drawn, -1).view_as(codes).to(codes), codes)


def perturbations(tokenizer: Any, grid: Grid) -> dict[tuple[float, int], Callable[[Tensor, Tensor], Tensor]]:
    """For each cell a function of (codes, image numbers) to perturbed codes."""
    vocab, books = tokenizer.spec.vocab, codebooks(tokenizer)
    near = [neighbours(book, scaled(max(grid.deltas), size)) for book, size in zip(books, vocab, strict=True)]
    noise = Noise(SEED)
    return {
        (alpha, delta): partial(perturb, near=near, alpha=alpha, deltas=[scaled(delta, v) for v in vocab], noise=noise)
        for alpha, delta in grid.cells
    }
