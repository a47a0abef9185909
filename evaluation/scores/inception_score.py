"""Inception Score (Salimans et al. 2016, arXiv 1606.03498): exp(mean_i sum_c p_ic (log p_ic - log mean_j p_jc)).

Of one split: exp((sum_i sum_c p log p) / n - sum_c q log q) with q = (sum_i p_i) / n, so three sums are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pointillist.evaluation.features import CLASSES, Features, Value

NETWORK = "inception"
SAMPLES = {"logits": CLASSES}
REFERENCE = {}
UNVERIFIED = {"is": "class_divergence"}
SEED = 2020  # torch-fidelity's


@dataclass
class Options:
    """ADM: consecutive splits of `split_size`, the last may be short; torch-fidelity: `splits` of a permutation."""

    rule: Literal["adm", "torch_fidelity"] = "adm"  # how images are divided; a class-sorted file needs torch_fidelity
    split_size: int = 5000  # images in a split, rule=adm
    splits: int = 10  # number of splits, rule=torch_fidelity


def check(options: Options, samples: int, reference: int | None) -> None:
    """ValueError when a split would be empty."""
    if options.split_size < 1 or options.splits < 1:
        raise ValueError(f"split_size={options.split_size} and splits={options.splits} must be at least 1")
    least = options.splits if options.rule == "torch_fidelity" else 1
    if samples < least:
        raise ValueError(f"{least} splits need as many images, got {samples}; lower splits or give more images")


def split_of(options: Options, count: int) -> np.ndarray:
    """The split that each of `count` images belongs to, int64 [count], known before any of them is seen."""
    if options.rule == "adm":
        return np.arange(count) // options.split_size
    bounds = np.arange(options.splits + 1) * count // options.splits
    split = np.empty(count, np.int64)
    order = np.random.RandomState(SEED).permutation(count)  # order[i] is the image at place i
    split[order] = np.repeat(np.arange(options.splits), np.diff(bounds))
    return split


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Sums over class probabilities p, a row for each of K splits; `a + b` merges two.

    count  images, int64 [K]
    p      sum of p, float64 [K, C]
    plogp  sum of sum_c p log p, float64 [K]
    """

    count: Tensor
    p: Tensor
    plogp: Tensor

    @classmethod
    def of(cls, logits: Tensor, split: Tensor | np.ndarray, splits: int) -> ClassSums:
        """Sums over one batch: logits of any float dtype [b, C], split int64 [b] in 0..splits-1.

        Raises ValueError when a logit is NaN or infinite.
        """
        x = logits.detach().to("cpu", torch.float64)
        split = torch.as_tensor(split, dtype=torch.int64)
        bad = int((~x.isfinite()).any(1).sum())
        if bad:
            raise ValueError(f"{bad} of {len(x)} images have NaN or infinite logits; look at the images behind them")
        log_p = x.log_softmax(1)
        p = log_p.exp()
        return cls(
            count=torch.bincount(split, minlength=splits),
            p=p.new_zeros(splits, x.shape[1]).index_add_(0, split, p),
            plogp=p.new_zeros(splits).index_add_(0, split, (p * log_p).sum(1)),
        )

    def __add__(self, other: ClassSums) -> ClassSums:
        assert self.p.shape == other.p.shape, f"cannot merge sums {tuple(self.p.shape)} and {tuple(other.p.shape)}"
        return ClassSums(self.count + other.count, self.p + other.p, self.plogp + other.plogp)

    @property
    def scores(self) -> Tensor:
        """The Inception Score of each split, float64 [K], in 1..C."""
        assert bool((self.count > 0).all()), "a split holds no images yet"
        q = self.p / self.count[:, None]
        return (self.plogp / self.count - torch.xlogy(q, q).sum(1)).exp()


def score(samples: Features, reference: Features | None, options: Options) -> dict[str, Value]:
    """Mean over the splits, each counting the same."""
    check(options, samples.count, None)
    scores = samples.classes("logits").scores
    if len(scores) == 1:
        return {"is": Value(float(scores.mean()))}
    how = f"standard deviation over {len(scores)} splits"
    return {"is": Value(float(scores.mean()), float(scores.std(correction=0)), how)}
