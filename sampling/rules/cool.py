"""cool: acceptance that relaxes less and less along the draft (Cool-SD, AAAI 2026).

Guess i of a window is kept with probability min(1, w_i p(x) / q(x)), w_i = max(1, delta exp(-nu i)), and replaced by
norm([p - q f]+), the best residual for any acceptance f. The publication's weights have one more constant, which
spreads a budget over the window and was not public; below 1 a weight would only cost passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pointillist.models.dist import Dist
from pointillist.sampling import relaxed
from pointillist.sampling.drafts import Draws, Guess, Verdict

CLAIM = "relaxed"
NEEDS_LAWS = True


@dataclass
class Options:
    name: str = "cool"
    delta: float = 2.0  # weight of the first guess; 1 = mrs
    nu: float = 0.7  # how fast the weight falls along the window

    def __post_init__(self) -> None:
        if not 1 <= self.delta < math.inf or not 0 <= self.nu < math.inf:
            raise ValueError(
                f"sampler.rule.delta must be at least 1, sampler.rule.nu at least 0; got {self.delta} and {self.nu}"
            )


def verify(options: Options, law: Any, dist: Dist, guess: Guess, slots: Tensor, draws: Draws) -> Verdict:
    """dist: the laws of a window's groups, slots [B, m, g]."""
    return relaxed.verify(partial(acceptance, options), None, False, dist, guess, slots, draws)


def acceptance(options: Options, p: Tensor, q: Tensor, drafts: Tensor, index: Tensor) -> Tensor:
    """f(x) [n, S] of drafts [n, S] that are guess index [n] of their window; p, q [n, V]."""
    weight = (options.delta * (-options.nu * index.to(p.dtype)).exp()).clamp_min(1)[:, None]
    return (weight * p.gather(1, drafts) / relaxed.draft_probability(q, drafts)).clamp_max(1)
