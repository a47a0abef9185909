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
from pointillist.sampling.drafts import Draws, Guess, Verdict, at_nodes, like, probabilities

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
    later, stay = coupled(p[:, 1:-1], laws[:, 1:], codes[:, 1:], slots[:, 1:-1], draws)
    last = draws.fixed(Categorical(p[:, -1:].log()), slots[:, -1:])
    kept = torch.cat([kept, stay], dim=1)
    return Verdict(way, torch.cat([first, later, last], dim=1), kept | like(slots[:, :-1] < 0, kept))


def coupled(p: Tensor, q: Tensor, codes: Tensor, slots: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Codes ~ p [B, n, g, (K,) V] from guesses ~ q of slots [B, n, g], and which guesses they keep, bool."""
    kept = draws.below("accept", of(acceptance(p, q), codes), slots)
    return torch.where(kept, codes, draws.fresh("residual", residual(p, q).log(), slots, ~kept)), kept


def first_group(p: Tensor, guess: Guess, slots: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ~ p [B, 1, g, (K,) V] from the first guesses of all ways: the way [B] that is followed, the codes
    [B, 1, g, (K)], and which of them are guesses."""
    way = torch.zeros(len(p), dtype=torch.long, device=p.device)
    codes, kept = torch.zeros_like(guess.codes[:, 0, :1]), torch.zeros_like(guess.codes[:, 0, :1], dtype=torch.bool)
    for i in range(guess.ways):
        x, q = guess.codes[:, i, :1], guess.laws[:, i, :1]
        fits = draws.below(f"accept {i}", of(acceptance(p, q), x), slots) & ~kept
        way = torch.where(fits.flatten(1).any(1), i, way)
        codes, kept, p = torch.where(fits, x, codes), kept | fits, residual(p, q)
    return way, torch.where(kept, codes, draws.fresh("residual", p.log(), slots, ~kept)), kept
