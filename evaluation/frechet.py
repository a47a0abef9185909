"""Frechet distance of two feature sets from streamed statistics: float64, on the CPU, no matrix square root.

Dowson & Landau 1982, eq. 4; Heusel et al. 2017 (arXiv 1706.08500), eq. 6:
    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

TOLERANCE = 5e-9  # absolute, of a distance


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over n feature vectors of width D; `a + b` merges two.

    count  n
    total  sum x, float64 [D]
    outer  sum x x^T, float64 [D, D]
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Sums over one batch, any float dtype [n, D]. Raises ValueError when a value is NaN or infinite."""
        assert features.ndim == 2, f"features are [n, D], got {tuple(features.shape)}"
        x = features.detach().to("cpu", torch.float64)
        bad = int((~x.isfinite()).any(1).sum())
        if bad:
            raise ValueError(f"{bad} of {len(x)} feature vectors hold NaN or infinity; look at the images behind them")
        return cls(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: Statistics) -> Statistics:
        assert self.dim == other.dim, f"cannot merge features of width {self.dim} and {other.dim}"
        return Statistics(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def dim(self) -> int:
        """D."""
        return len(self.total)

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean, and covariance with divisor n - 1, as np.cov and the ADM evaluator have it. ValueError when n < 2."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        mean = self.total / self.count
        s = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Gaussian(mean, (s + s.T) / 2, self.count)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """What a Frechet distance knows of a set of images.

    mean        m, float64 [D]
    covariance  S, float64 [D, D]
    count       n of the vectors behind it; None where only mean and covariance were kept (a reference's .npz)
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean)

    @cached_property
    def root(self) -> Tensor:
        """r, float64 [D, R], with r r^T = S and R the numerical rank of S, at most min(D, n - 1).

        The zero eigenvalues of a rank-deficient S come out as +-1e-16; their square roots, 1e-8 each, are what spoils
        the distance below full rank, so those columns are left out rather than kept as noise.
        """
        w, v = torch.linalg.eigh(self.covariance)  # ascending
        rounding = w.abs().max() * self.dim * torch.finfo(w.dtype).eps
        keep = w > rounding
        if self.count is not None:
            keep[: max(0, self.dim - (self.count - 1))] = False
        return v[:, keep] * w[keep].sqrt()


@dataclass(frozen=True)
class Frechet:
    """The four terms of d^2; `raw` may be -1e-12 for equal sets, `distance` may not."""

    means: float  # |m1 - m2|^2
    trace_reference: float  # tr S1
    trace_sample: float  # tr S2
    trace_root: float  # tr (S1 S2)^(1/2)

    @property
    def raw(self) -> float:
        return self.means + self.trace_reference + self.trace_sample - 2 * self.trace_root

    @property
    def distance(self) -> float:
        """d^2, the number that is called the Frechet distance in this field."""
        return max(self.raw, 0.0)


def frechet(reference: Gaussian, sample: Gaussian) -> Frechet:
    """Frechet distance of two sets of the same width.

    The eigen-decomposition of the reference is kept with it (`Gaussian.root`): scoring again costs one eigvalsh.
    """
    assert reference.dim == sample.dim, f"features of width {reference.dim} and {sample.dim} cannot be compared"
    return Frechet(
        means=float((reference.mean - sample.mean).square().sum()),
        trace_reference=float(reference.covariance.trace()),
        trace_sample=float(sample.covariance.trace()),
        trace_root=trace_root(reference, sample),
    )


def trace_root(reference: Gaussian, sample: Gaussian) -> float:
    """tr (S1 S2)^(1/2) = nuclear norm of r1^T r2, which equals that of F1 F2^T with F = (X - m) / sqrt(n - 1) because
    r r^T = F^T F: exact at any rank.

    At full rank the eigenvalues of the symmetric r1^T S2 r1 give the same for a quarter of the time, as the roots of
    S2 are not needed; but they are squares, and small ones drown in the rounding of the largest. Where that would be
    felt, as for few more images than features, they are not taken.
    """
    r1 = reference.root
    if r1.shape[1] == sample.dim and sample.count is not None and sample.count > sample.dim:
        w = torch.linalg.eigvalsh(r1.T @ sample.covariance @ r1)
        rounding = w[-1] * torch.finfo(w.dtype).eps
        felt = (rounding / w.clamp(min=float(rounding)).sqrt() / 2).square().sum().sqrt()
        if felt < TOLERANCE:
            return float(w.clamp(min=0).sqrt().sum())
    return float(torch.linalg.svdvals(r1.T @ sample.root).sum())
