"""mrs: modified rejection sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

A guess x ~ q stays with probability min(1, p(x) / q(x)); otherwise the code is drawn from norm([p - q]+). The first
group may have several guesses: they are tried in turn, each against what the ones before have left of p (SpecInfer,
arXiv 2305.09781). The codes' law is p, whatever the drafter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Categorical, Dist
from pointillist.sampling.coupling import acceptance, of, residual
from pointillist.sampling.drafts import Draws, Guess, Verdict, at_nodes, like, probabilities, reached

CLAIM = "exact"
NEEDS_LAWS = True


@dataclass
class Options:
    name: str = "mrs"


def verify(options: Options, law: Any, dist: Dist, guess: Guess, slots: Tensor, draws: Draws) -> Verdict:
    """dist: the laws of the tree's nodes; slots [B, m, g] along a way. Each code of a group has its own test."""
    p = probabilities(dist)
    way, first, kept = first_group(p[:, :1], guess, slots[:, :1], draws)
    p, rows = at_nodes(p, guess.nodes(way)), torch.arange(len(way), device=way.device)
    codes, laws = guess.codes[rows, way], guess.laws[rows, way]  # [B, L, ...]
    last = draws.fixed(Categorical(p[:, -1:].log()), slots[:, -1:])
    p, laws, codes, inner = p[:, 1:-1], laws[:, 1:], codes[:, 1:], slots[:, 1:-1]
    kept = torch.cat([kept, stays(p, laws, codes, inner, draws)], dim=1)
    kept = kept | like(slots[:, :-1] < 0, kept)
    tested = like(reached(kept.flatten(2).all(-1))[..., None], kept)[:, 1:]
    later = replaced(p, laws, codes, inner, draws, ~kept[:, 1:] & tested)
    return Verdict(way, torch.cat([first, later, last], dim=1), kept)


def stays(p: Tensor, q: Tensor, codes: Tensor, slots: Tensor, draws: Draws) -> Tensor:
    """Which guesses [B, n, g, (K)] ~ q of slots [B, n, g] are kept as codes ~ p, bool."""
    return draws.below("accept", acceptance(of(p, codes), of(q, codes)), slots)


def replaced(p: Tensor, q: Tensor, codes: Tensor, slots: Tensor, draws: Draws, where: Tensor) -> Tensor:
    """Guesses [B, n, g, (K)] ~ q with draws from the residual where [B, n, g, (K)] they were rejected."""
    return torch.where(where, draws.fresh("residual", residual(p[where], q[where]), slots, where), codes)


def first_group(p: Tensor, guess: Guess, slots: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ~ p [B, 1, g, (K,) V] from the first guesses of all ways: the way [B] that is followed, the codes
    [B, 1, g, (K)], and which of them are guesses."""
    way = torch.zeros(len(p), dtype=torch.long, device=p.device)
    codes, kept = torch.zeros_like(guess.codes[:, 0, :1]), torch.zeros_like(guess.codes[:, 0, :1], dtype=torch.bool)
    for i in range(guess.ways):
        x, q = guess.codes[:, i, :1], guess.laws[:, i, :1]
        fits = draws.below(f"accept {i}", acceptance(of(p, x), of(q, x)), slots) & ~kept
        way = torch.where(fits.flatten(1).any(1), i, way)
        codes, kept, p = torch.where(fits, x, codes), kept | fits, residual(p, q)
    return way, torch.where(kept, codes, draws.fresh("residual", p[~kept], slots, ~kept)), kept
