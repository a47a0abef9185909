"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

The manifold of a set is the union of the balls around its vectors that reach to their k-th nearest other vector.
Precision is the share of samples inside the manifold of the reference, recall the share of the reference inside the
manifold of the samples. Both depend on k and on both numbers of images; a vector on the surface (`<=`) is inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch

from pointillist.evaluation.banks import AdmDistances, Distances, radii, require
from pointillist.evaluation.features import BANK, Features, Value

NETWORK = "inception"
SAMPLES = {"pool": BANK}
REFERENCE = {"pool": BANK}
UNVERIFIED = {"precision": "precision", "recall": "recall"}


@dataclass
class Options:
    """The ADM evaluator's, but for float16."""

    k: int = 3  # neighbours that a ball reaches to
    precision: Literal["fp32", "adm_fp16"] = "fp32"  # of distances; the ADM evaluator rounds them to float16


def check(options: Options, samples: int, reference: int | None) -> None:
    """ValueError when a set has no k-th neighbour."""
    if options.k < 1:
        raise ValueError(f"k={options.k} must be at least 1")
    require(f"precision_recall.k={options.k}", options.k + 1, samples, reference)


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """Widths are standard errors of a share, sqrt(p (1 - p) / n)."""
    kind = AdmDistances if options.precision == "adm_fp16" else Distances
    real, generated = reference.bank("pool"), samples.bank("pool")
    check(options, len(generated), len(real))
    between = kind(real, generated)
    real_balls, generated_balls = (radii(kind(bank, bank), options.k) for bank in (real, generated))
    real_balls += between.ties(between.x_squares, real_balls)
    generated_balls += between.ties(between.y_squares, generated_balls)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    precise = torch.zeros(len(generated), dtype=torch.bool)
    for i, j, d in between.blocks():
        precise[j] |= (d - real_balls[i, None]).amin(0) <= 0
        recalled[i] |= (d - generated_balls[j]).amin(1) <= 0
    return {"precision": share(precise), "recall": share(recalled)}


def share(members: torch.Tensor) -> Value:
    """Of bool [n]."""
    p = float(members.double().mean())
    return Value(p, sqrt(p * (1 - p) / len(members)), f"standard error of a share of {len(members)} images")
