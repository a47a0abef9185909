"""CMMD (Jayasumana et al. 2024, arXiv 2401.09603): squared maximum mean discrepancy of CLIP image embeddings.

    1000 * (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)),   k(x, y) = exp(-|x - y|^2 / (2 * 10^2)),   |x| = 1

The biased estimate, in which each vector meets itself. The kernel lies in .98..1 and the difference is of the order
of .001, hence float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pointillist.evaluation.banks import read, require, slices
from pointillist.evaluation.features import BANK, Features, Value

NETWORK = "clip"
SAMPLES = {"embedding": BANK}
REFERENCE = {"embedding": BANK}
UNVERIFIED = {"cmmd": "rbf_kernel_distance"}
SIGMA, SCALE = 10.0, 1000.0
BLOCK = 2500  # vectors on a side of a block of kernel values: 50 MB


@dataclass
class Options:
    """There is nothing to choose."""


def check(options: Options, samples: int, reference: int | None) -> None:
    """ValueError when a set is empty."""
    require("cmmd", 1, samples, reference)


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """Embeddings need not be normalised."""
    x, y = samples.bank("embedding"), reference.bank("embedding")
    check(options, len(x), len(y))
    return {"cmmd": Value(SCALE * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)))}


def mean_kernel(x: np.ndarray, y: np.ndarray, block: int = BLOCK) -> float:
    """Over all pairs of rows; those within one set are the same either way round, so half of them are computed."""
    total, within = 0.0, x is y
    for i in slices(len(x), block):
        u = normalised(x, i)
        for j in slices(len(y), block, i.start if within else 0):
            v = u if within and i == j else normalised(y, j)
            k = (u @ v.T).sub_(1).div_(SIGMA**2).exp_()  # |u - v|^2 = 2 - 2 u.v
            total += float(k.sum()) * (2 if within and i != j else 1)
    return total / (len(x) * len(y))


def normalised(bank: np.ndarray, rows: slice) -> Tensor:
    """float64 [n, D]. Raises ValueError for an embedding without a direction."""
    x = read(bank, rows, torch.float64)
    length = x.norm(dim=1, keepdim=True)
    if not bool(length.all()):
        raise ValueError(f"{int((length == 0).sum())} of {len(x)} embeddings are all zero; check the CLIP weights")
    return x / length
