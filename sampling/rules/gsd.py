"""gsd: codes near in probability and codebook count as one (GSD, So et al., arXiv 2508.07747).

C(x) holds the codes within `ranks` / 2 ranks of x when p is sorted, whose probability differs from p(x) by less than
`gap` and whose vector lies within squared distance `distance`. A draft is kept with probability min(1, p(C) / q(C)).
The publication replaces a rejected draft by norm([p - q]+) (residual=paper); the best is norm([p - q f]+).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from pointillist.models.dist import Dist
from pointillist.sampling import relaxed
from pointillist.sampling.coupling import residual
from pointillist.sampling.drafts import Draws, Guess, Verdict

CLAIM = "relaxed"
NEEDS_LAWS = True
check = relaxed.check


@dataclass
class Options:
    name: str = "gsd"
    ranks: int = 14  # ranks around the draft, half of them on each side
    gap: float = 0.15  # greatest difference of probabilities
    distance: float = 0.5  # greatest squared distance of the codes' vectors
    residual: Literal["optimal", "paper"] = "optimal"  # of a rejected draft

    def __post_init__(self) -> None:
        if self.ranks < 0 or self.gap < 0 or self.distance < 0:
            raise ValueError(
                "sampler.rule.ranks, sampler.rule.gap and sampler.rule.distance must be at least 0, got "
                f"{self.ranks}, {self.gap} and {self.distance}"
            )


def verify(options: Options, law: Any, dist: Dist, guess: Guess, slots: Tensor, draws: Draws) -> Verdict:
    """dist: the laws of a window's groups, slots [B, m, g]."""
    accept = partial(acceptance, options, law.vectors)
    replace = None if options.residual == "optimal" else lambda p, q, drafts: residual(p, q)
    return relaxed.verify(accept, replace, False, dist, guess, slots, draws)


def acceptance(options: Options, vectors: Tensor, p: Tensor, q: Tensor, drafts: Tensor, index: Tensor) -> Tensor:
    """f(x) [n, S] of drafts [n, S]; p, q [n, V]; vectors [V, C]."""
    order = p.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(p.shape[1], device=p.device).expand_as(order))
    offsets = torch.arange(-(options.ranks // 2), options.ranks // 2 + 1, device=p.device)
    found = []
    for part in relaxed.chunks(drafts, len(offsets) * max(vectors.shape[1], 1)):
        at = rank.gather(1, part)[..., None] + offsets  # [n, S, ranks + 1]
        there = (at >= 0) & (at < p.shape[1])
        codes = order.gather(1, at.clamp(0, p.shape[1] - 1).flatten(1)).view_as(at)
        mass = p.gather(1, codes.flatten(1)).view_as(at)
        apart = (vectors[codes] - vectors[part][..., None, :]).square().sum(-1)
        near = ((mass - p.gather(1, part)[..., None]).abs() < options.gap) & (apart < options.distance)
        alike = there & (near | (codes == part[..., None]))
        drafted = torch.where(alike, q.gather(1, codes.flatten(1)).view_as(at), 0).sum(-1)
        found.append(torch.where(alike, mass, 0).sum(-1) / torch.where(drafted > 0, drafted, 1))
    return torch.cat(found, dim=1).clamp_max(1)
