"""Monge Inception distance (Berthet et al. 2026, arXiv 2605.06797): sliced Wasserstein-2 distance, squared, times 3 D.

    3 D * mean over directions u, |u| = 1, of mean_j (sort(X u)_j - sort(Y u)_j)^2

Needs far fewer images than FID to rank models. Directions, and the images of the larger set that are used, are drawn
as torch-fidelity draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from pointillist.evaluation.banks import read, require, slices
from pointillist.evaluation.features import BANK, Features, Value

NETWORK = "inception"
SAMPLES = {"pool": BANK}
REFERENCE = {"pool": BANK}
UNVERIFIED = {"mind": "monge_distance"}
AT_ONCE = 8_000_000  # projections in memory, float64
ROWS = 5000  # feature vectors in memory


@dataclass
class Options:
    """As torch-fidelity has it."""

    directions: int = 1000  # random projections
    seed: int = 2020  # of the directions, and of the images that are used of the larger set


def check(options: Options, samples: int, reference: int | None) -> None:
    """ValueError when there is nothing to compare."""
    if options.directions < 2:
        raise ValueError(f"directions={options.directions} must be at least 2")
    require("mind", 1, samples, reference)


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """The width says how much of the value is due to the choice of directions, not of images."""
    banks = samples.bank("pool"), reference.bank("pool")
    check(options, *map(len, banks))
    dim, count = banks[0].shape[1], min(map(len, banks))
    rng = torch.Generator().manual_seed(options.seed)
    rows = [chosen(len(bank), count, rng) for bank in banks]
    u = torch.randn(options.directions, dim, generator=rng)
    u = (u / u.norm(dim=1, keepdim=True)).double()
    parts = []
    for part in u.split(max(1, AT_ONCE // count)):
        x, y = (sorted_projections(bank, i, part) for bank, i in zip(banks, rows, strict=True))
        parts.append((x - y).square().mean(1))
    each = 3 * dim * torch.cat(parts)  # [directions]
    how = f"standard error over {options.directions} directions"
    return {"mind": Value(float(each.mean()), float(each.std()) / sqrt(options.directions), how)}


def chosen(count: int, size: int, rng: torch.Generator) -> np.ndarray:
    """Which `size` of `count` vectors are used, ascending int64."""
    return np.arange(count) if size == count else torch.randperm(count, generator=rng)[:size].sort().values.numpy()


def sorted_projections(bank: np.ndarray, rows: np.ndarray, directions: Tensor) -> Tensor:
    """float64 [directions, rows], each direction ascending."""
    parts = [directions @ read(bank, rows[part], torch.float64).T for part in slices(len(rows), ROWS)]
    projections = torch.cat(parts, 1)
    projections.numpy().sort(axis=1)  # in place; numpy sorts with vector instructions, and without indices
    return projections
