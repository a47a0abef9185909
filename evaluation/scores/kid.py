"""Kernel Inception distance (Binkowski et al. 2018, arXiv 1801.01401, section 4): unbiased squared maximum mean
discrepancy under the kernel (x.y / D + 1)^3, averaged over random subsets; it may come out slightly below 0.

Subsets are those of torch-fidelity: RandomState(seed).choice without replacement, samples first, then reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pointillist.evaluation.banks import read, require
from pointillist.evaluation.features import BANK, Features, Value

NETWORK = "inception"
SAMPLES = {"pool": BANK}
REFERENCE = {"pool": BANK}
UNVERIFIED = {"kid": "kernel_distance"}
DEGREE = 3


@dataclass
class Options:
    """As torch-fidelity has it."""

    subsets: int = 100  # random subsets that the mean goes over
    subset_size: int = 1000  # images in each, of either set
    seed: int = 2020  # of the subsets


def check(options: Options, samples: int, reference: int | None) -> None:
    """ValueError when a subset cannot be drawn."""
    if options.subsets < 1 or options.subset_size < 2:
        raise ValueError(f"subsets={options.subsets} must be at least 1, subset_size={options.subset_size} at least 2")
    require(f"kid.subset_size={options.subset_size}", options.subset_size, samples, reference)


def subset_pairs(options: Options, samples: int, reference: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image numbers (of samples, of the reference) of each subset, int64 [subset_size]."""
    rng, size = np.random.RandomState(options.seed), options.subset_size
    return [
        (rng.choice(samples, size, replace=False), rng.choice(reference, size, replace=False))
        for _ in range(options.subsets)
    ]


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """Mean over the subsets."""
    generated, real = samples.bank("pool"), reference.bank("pool")
    check(options, len(generated), len(real))
    pairs = subset_pairs(options, len(generated), len(real))
    values = torch.stack(
        [discrepancy(read(generated, i, torch.float64), read(real, j, torch.float64)) for i, j in pairs]
    )
    how = f"standard deviation over {len(values)} subsets of {options.subset_size}"
    return {"kid": Value(float(values.mean()), float(values.std(correction=0)), how)}


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD^2 of two sets of the same size, float64 [n, D]: the kernel of a vector with itself is left out."""
    n = len(x)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return within / (n * (n - 1)) - 2 * xy.mean()


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** DEGREE
