"""The nouns of a score: features of one set of images under one network, and the value that comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from pointillist.evaluation.frechet import Gaussian
    from pointillist.evaluation.scores.inception_score import ClassSums

# What may be gathered of a layer while images stream by. Only a bank grows with the number of images; it lies on disk.
MOMENTS, CLASSES, BANK = "moments", "classes", "bank"


class Features(Protocol):
    """Features of N images in file order; a layer gives what the score's file asked for and nothing else."""

    count: int  # N

    def moments(self, layer: str) -> Gaussian:
        """Mean and covariance of a layer of width D; `count` is None where only these two were stored."""

    def classes(self, layer: str) -> ClassSums:
        """Sums of class probabilities, a row a split."""

    def bank(self, layer: str) -> np.ndarray:
        """All vectors, float16 or float32 [N, D], usually memory-mapped: read it in blocks."""


@dataclass(frozen=True)
class Value:
    """One number of a score.

    width   how uncertain it is, in its own unit; None where that was not measured
    how     what `width` is: "standard deviation over 10 splits"
    """

    value: float
    width: float | None = None
    how: str = ""
