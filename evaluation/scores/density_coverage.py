"""Density and coverage (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and 4).

Both use the balls around reference vectors that reach to their k-th nearest other one. Density is the mean number of
balls that a sample lies in, over k; it may exceed 1. Coverage is the share of balls with a sample inside. A vector on
the surface is outside (`<`). Both depend on k and on both numbers of images, equal numbers being usual.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointillist.evaluation.banks import Distances, radii, require
from pointillist.evaluation.features import BANK, Features, Value
from pointillist.evaluation.scores.precision_recall import share

NETWORK = "inception"
SAMPLES = {"pool": BANK}
REFERENCE = {"pool": BANK}
UNVERIFIED = {"density": "density", "coverage": "coverage"}


@dataclass
class Options:
    """As the authors' `prdc` has it."""

    k: int = 5  # neighbours that a ball reaches to


def check(options: Options, samples: int, reference: int | None) -> None:
    """ValueError when the reference has no k-th neighbour."""
    if options.k < 1:
        raise ValueError(f"k={options.k} must be at least 1")
    require(f"density_coverage.k={options.k}", options.k + 1, None, reference)


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """The width of coverage is the standard error of a share."""
    real, generated = reference.bank("pool"), samples.bank("pool")
    check(options, len(generated), len(real))
    balls = radii(Distances(real, real), options.k)
    between = Distances(real, generated)
    balls -= between.ties(between.x_squares, balls)
    inside = 0
    covered = torch.zeros(len(real), dtype=torch.bool)
    for i, _, d in between.blocks():
        within = d < balls[i, None]
        inside += int(within.count_nonzero())
        covered[i] |= within.any(1)
    return {"density": Value(inside / (options.k * len(generated))), "coverage": share(covered)}
