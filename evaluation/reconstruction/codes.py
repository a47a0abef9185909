"""How a tokenizer uses its codes: counts of a pass over images, and what they say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from math import log, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.data.images import to_float
from pointillist.training.precision import full_float32

LARGEST = 2**24  # codes of a book, which a bank keeps exactly in float32
BLOCK = 4096  # images whose codes are counted together


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer as a network with one layer, "codes", so that a `Pass` keeps them: float32 [b, N * books | N * C].

    Of stochastic codes it gives the mean. sha256 is that of the tokenizer's weights.
    """

    tokenizer: Any
    sha256: str
    device: torch.device

    @cached_property
    def layers(self) -> dict[str, int]:
        return {"codes": prod(self.tokenizer.spec.shape)}

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        with full_float32():
            codes = self.tokenizer.encode(to_float(images).to(self.device))
        point = codes.chunk(2, -1)[0] if self.tokenizer.spec.stochastic else codes
        return dict.fromkeys(layers, point.flatten(1).float().cpu())


def unpack(bank: np.ndarray, spec: CodeSpec) -> Tensor:
    """Rows of such a bank -> codes as `decode` takes them: int64, or float32 where they are continuous."""
    codes = torch.from_numpy(np.array(bank, np.float32)).unflatten(1, spec.shape)
    return codes.long() if spec.vocab else codes


def count(bank: np.ndarray, spec: CodeSpec) -> list[Tensor]:
    """How often each code of each book occurs at each scale: a book's int64 [scales, V]."""
    lengths = [prod(grid) for grid in spec.grids]
    found = [torch.zeros(len(lengths), size, dtype=torch.int64) for size in spec.vocab]
    for start in range(0, len(bank), BLOCK):
        codes = unpack(bank[start : start + BLOCK], spec).view(-1, spec.length, len(spec.vocab))
        for scale, part in enumerate(codes.split(lengths, 1)):
            for book, counts in enumerate(found):
                counts[scale] += torch.bincount(part[..., book].flatten(), minlength=spec.vocab[book])
    return found


def usage(counts: Tensor) -> float:
    """Share of the codes that occur at all, of counts [V]."""
    return float((counts > 0).double().mean())


def entropy(counts: Tensor) -> float:
    """H = -sum p ln p in nats, of counts [V] that are not all 0."""
    share = counts.double() / counts.sum()
    return float(-torch.special.xlogy(share, share).sum())


def statistics(counts: list[Tensor], spec: CodeSpec) -> dict[str, dict]:
    """Name -> {"value", "parts"}: of all books together, and of each book and each scale where there are several.

    code_usage          share of a book's codes that occur
    code_entropy        of their frequencies, in bits
    code_entropy_share  the same over log2 V, its most
    code_perplexity     exp of the entropy in nats: as many equally frequent codes would have it

    Several books are averaged, for the perplexity their entropies. Papers that count a code as used only above some
    frequency (VAR .08, UniTok .01 of the uniform one), or that call H itself perplexity, have other numbers.
    """
    whole = [book.sum(0) for book in counts]
    parts = {"all": whole}
    if len(whole) > 1:
        parts |= {f"book {i}": [book] for i, book in enumerate(whole)}
    if len(spec.grids) > 1:
        parts |= {f"scale {'x'.join(map(str, g))}": [book[k] for book in counts] for k, g in enumerate(spec.grids)}
    found = {name: _of(books) for name, books in parts.items()}
    out = {}
    for name, value in found.pop("all").items():
        inner = {"parts": {part: numbers[name] for part, numbers in found.items()}} if found else {}
        out[name] = {"value": value} | inner
    return out


def _of(books: list[Tensor]) -> dict[str, float]:
    """Means over books of counts [V]."""
    nats = [entropy(book) for book in books]
    shares = [h / log(max(len(book), 2)) for h, book in zip(nats, books, strict=True)]
    return {
        "code_usage": float(np.mean([usage(book) for book in books])),
        "code_entropy": float(np.mean(nats)) / log(2),
        "code_entropy_share": float(np.mean(shares)),
        "code_perplexity": float(np.exp(np.mean(nats))),
    }
