"""lantern: codes that look alike stand for one another (LANTERN, Jang et al., arXiv 2410.03355; LANTERN++, 2502.06352).

A(x) is the longest nearest-first run of the k nearest codebook entries of x with p(A) <= delta, or with
p(A) <= (delta - 1) p(x) where delta > 1 (LANTERN++'s lambda). A draft is kept with probability
min(1, (p(x) + p(A(x))) / q(x)). delta bounds how far one draft's view of p is moved, not the law that comes out, which
can differ from p by any amount: the trace measures it. delta 0 is mrs.

residual  what replaces a rejected draft:
optimal   norm([p - q f]+): the least total variation for this f
paper     norm([p' - q]+), p' being p with the mass of A(x) moved to x
llamagen, lumina  the two of the released code: where A(x) is not empty, q or p is first set to 0 on the k + 1 nearest
All but the first depend on the draft, and are measured draft by draft, which is slow.
"""

from __future__ import annotations

import math
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
MOST = 1000  # of the nearest codes that are known


@dataclass
class Options:
    name: str = "lantern"
    k: int = 10  # nearest codes that may stand in, 1000 at most
    delta: float = 0.1  # their share of the target's mass; above 1: 1 + their mass relative to the draft's
    residual: Literal["optimal", "paper", "llamagen", "lumina"] = "optimal"  # of a rejected draft

    def __post_init__(self) -> None:
        if not 0 <= self.k <= MOST or not 0 <= self.delta < math.inf:
            raise ValueError(
                f"sampler.rule.k must lie in 0..{MOST}, sampler.rule.delta be at least 0; got {self.k}, {self.delta}"
            )


def verify(options: Options, law: Any, dist: Dist, guess: Guess, slots: Tensor, draws: Draws) -> Verdict:
    """dist: the laws of a window's groups, slots [B, m, g]."""
    accept = partial(acceptance, options, law.nearest)
    replace = None if options.residual == "optimal" else partial(replacement, options, law.nearest)
    return relaxed.verify(accept, replace, replace is not None, dist, guess, slots, draws)


def acceptance(options: Options, nearest: Tensor, p: Tensor, q: Tensor, drafts: Tensor, index: Tensor) -> Tensor:
    """f(x) [n, S] of drafts [n, S]; p, q [n, V]; nearest [V, K]."""
    mass = [view(options, nearest, p, part)[0] for part in relaxed.chunks(drafts, max(options.k, 1))]
    return (torch.cat(mass, dim=1) / relaxed.draft_probability(q, drafts)).clamp_max(1)


def view(options: Options, nearest: Tensor, p: Tensor, drafts: Tensor) -> tuple[Tensor, Tensor]:
    """p(x) + p(A(x)) [n, S] of drafts [n, S], and how many codes A(x) holds."""
    own = p.gather(1, drafts)
    beside = nearest[:, : options.k][drafts]  # [n, S, k]
    mass = p.gather(1, beside.flatten(1)).view_as(beside).cumsum(-1)
    bound = torch.full_like(own, options.delta) if options.delta <= 1 else (options.delta - 1) * own
    inside = mass <= bound[..., None]
    return own + torch.where(inside, mass, 0).amax(-1) if options.k else own, inside.sum(-1)


def replacement(options: Options, nearest: Tensor, p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
    """[n, V]: the law of what replaces rejected drafts [n]."""
    mass, number = (x[:, 0] for x in view(options, nearest, p, drafts[:, None]))
    if options.residual == "paper":
        run = torch.arange(options.k, device=p.device) < number[:, None]
        beside = nearest[drafts, : options.k]
        moved = p.scatter(1, beside, torch.where(run, 0, p.gather(1, beside)))
        return residual(moved.scatter(1, drafts[:, None], mass[:, None]), q)
    cleared = nearest[drafts, : options.k + 1]
    some = (number > 0)[:, None]
    if options.residual == "llamagen":
        return residual(p, torch.where(some, q.scatter(1, cleared, 0.0), q))
    left = (torch.where(some, p.scatter(1, cleared, 0.0), p) - q).clamp_min(0)
    total = left.sum(-1, keepdim=True)
    return torch.where(total > 0, left / torch.where(total > 0, total, 1), 1 / p.shape[-1])
