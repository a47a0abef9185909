"""exact: the code is argmax(log p + g) with the noise g of its image and slot; a guess is right if it equals that.

So every drafter, window and tree gives the very codes of ancestral decoding, and temperature 0 is greedy Jacobi
decoding. Parallel fixed-point iteration of reparametrised models is Wiggers & Hoogeboom's (arXiv 2002.09928); a shared
race accepts at least (1 - TV) / (1 + TV) of the drafts (Daliri, Musco & Suresh, arXiv 2408.07978).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Dist
from pointillist.sampling.drafts import Draws, Guess, Verdict, like

CLAIM = "exact"
NEEDS_LAWS = False


@dataclass
class Options:
    name: str = "exact"


def verify(options: Options, law: Any, dist: Dist, guess: Guess, slots: Tensor, draws: Draws) -> Verdict:
    """dist: the laws of the tree's nodes; slots [B, m, g] along a way. The way that agrees longest is followed."""
    drawn = draws.fixed(dist, slots[:, guess.tree().depth.to(slots.device)])  # [B, 1 + ways * L, g, ...]
    after = drawn[:, 1:].unflatten(1, (guess.ways, guess.length))
    codes = torch.cat([drawn[:, None, :1].expand_as(after[:, :, :1]), after], dim=2)  # [B, ways, m, g, ...]
    kept = codes[:, :, :-1] == guess.codes
    kept = kept | like(slots[:, None, :-1] < 0, kept)
    way = kept.flatten(3).all(-1).long().cumprod(2).sum(2).argmax(1)
    rows = torch.arange(len(way), device=way.device)
    return Verdict(way, codes[rows, way], kept[rows, way])
