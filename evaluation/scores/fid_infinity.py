"""FID of infinitely many samples (Chong & Forsyth 2020, arXiv 1911.07023): FID at several N, a line through FID over
1 / N, its intercept. The bias of a finite reference remains.

The publication shuffles anew for each N. Here one permutation is drawn and the first N of it are taken, so that the
sums of one N continue those of the one before; both estimates have the same mean and, on Gaussians of width 32 at
N = 300..3000, a standard deviation of .018 here and .020 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pointillist.evaluation.banks import read, require, slices
from pointillist.evaluation.features import BANK, MOMENTS, Features, Value
from pointillist.evaluation.frechet import Statistics, frechet

NETWORK = "inception"
SAMPLES = {"pool": BANK}
REFERENCE = {"pool": MOMENTS}
UNVERIFIED = {"fid_infinity": "frechet_infinity"}
ROWS = 5000  # feature vectors in memory


@dataclass
class Options:
    """As published."""

    points: int = 15  # values of N, evenly spaced
    smallest: int = 5000  # the least N, the largest being all
    seed: int = 0  # of the order in which samples are taken


def check(options: Options, samples: int, reference: int | None) -> None:
    """ValueError when there are not enough samples for a line."""
    if options.points < 2 or options.smallest < 2:
        raise ValueError(f"points={options.points} and smallest={options.smallest} must be at least 2")
    require(f"fid_infinity.smallest={options.smallest}", options.smallest + options.points - 1, samples, None)


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """The points share samples, so the scatter around the line says little of the width."""
    bank, goal = samples.bank("pool"), reference.moments("pool")
    check(options, len(bank), None)
    sizes = np.linspace(options.smallest, len(bank), options.points).astype(int)
    order = np.random.RandomState(options.seed).permutation(len(bank))
    fids = [frechet(goal, s.gaussian).distance for s in growing(bank, order, sizes)]
    return {"fid_infinity": Value(intercept(1 / sizes, np.array(fids)))}


def growing(bank: np.ndarray, order: np.ndarray, sizes: np.ndarray) -> Iterator[Statistics]:
    """Sums over the first n of `order`, for each n of the ascending `sizes`."""
    total = None
    for begin, end in pairwise([0, *sizes]):
        for part in slices(end, ROWS, begin):
            s = Statistics.of(read(bank, np.sort(order[part]), torch.float64))
            total = s if total is None else total + s
        yield total


def intercept(x: np.ndarray, y: np.ndarray) -> float:
    """Of the least-squares line."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return float(y.mean() - slope * x.mean())
