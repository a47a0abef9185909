"""Couplings of a draft x ~ q with a code y ~ p that is to equal it often (facts of speculative sampling).

Accept x with probability f(x), else draw from the residual G. The law of what comes out is
o = q f + (1 - <q, f>) G. With f = min(1, p / q) and G = norm([p - q]+) it is p: maximal coupling (Leviathan et al.,
arXiv 2211.17192; Chen et al., arXiv 2302.01318), and no coupling keeps x more often than its 1 - TV(p, q).
For any other f the best residual is G = norm([p - q f]+) (Cool-SD), the same one unless f accepts somewhere less.
"""

from __future__ import annotations

import torch
from torch import Tensor


def acceptance(p: Tensor, q: Tensor) -> Tensor:
    """min(1, p / q) of probabilities of any shape, 1 where q is 0."""
    return torch.where(q > 0, p / torch.where(q > 0, q, 1), 1).clamp_max(1)


def residual(p: Tensor, taken: Tensor) -> Tensor:
    """norm([p - taken]+) [..., V]; p itself where nothing is left, which only rounding can bring about.

    Nothing is added to avoid zeros: that would leak mass to codes outside of p.
    """
    left = (p - taken).clamp_min(0)
    total = left.sum(-1, keepdim=True)
    return torch.where(total > 0, left / torch.where(total > 0, total, 1), p)


def emitted(q: Tensor, f: Tensor, other: Tensor) -> Tensor:
    """o = q f + (1 - <q, f>) G, [..., V]."""
    kept = q * f
    return kept + (1 - kept.sum(-1, keepdim=True)) * other


def total_variation(p: Tensor, o: Tensor) -> Tensor:
    """[...] of laws [..., V]."""
    return (p - o).abs().sum(-1) / 2


def of(law: Tensor, codes: Tensor) -> Tensor:
    """The entries [...] of [..., V] at codes [...]."""
    return law.gather(-1, codes[..., None])[..., 0]
