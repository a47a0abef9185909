"""Pointillist: autoregressive image generation, any prediction unit x any sampler x any tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

__version__ = "0.1.0"


@dataclass(frozen=True)
class CodeSpec:
    """All that a model may know of a tokenizer: the shape of its codes, never its network or its images.

    grids       one entry a scale: ((16, 16),) a plane | ((32,),) a sequence | ((1, 1), (2, 2), ...) a pyramid
    vocab       one size a book: (16384,) | (64, 4096) | () = continuous codes
    channels    width of one code's vector as the decoder sees it
    ordered     any prefix of the codes decodes
    stochastic  codes are (mean, std) and the loader draws
    """

    grids: tuple[tuple[int, ...], ...]
    vocab: tuple[int, ...]
    channels: int
    ordered: bool = False
    stochastic: bool = False

    @property
    def length(self) -> int:
        """N: codes of one image, scales concatenated coarse to fine."""
        return sum(prod(grid) for grid in self.grids)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's codes as a model sees them: (N,), (N, books) or, continuous, (N, C)."""
        if not self.vocab:
            return self.length, self.channels
        return (self.length,) if len(self.vocab) == 1 else (self.length, len(self.vocab))

    @classmethod
    def from_dict(cls, d: dict) -> CodeSpec:
        """Rebuild a spec from JSON, where tuples have become lists."""
        return cls(**{**d, "grids": tuple(map(tuple, d["grids"])), "vocab": tuple(d["vocab"])})
