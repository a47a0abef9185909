"""ancestral: the unit's groups one after another, each drawn from its law given all before it. Exact by definition.

With merge > 1 so many of the unit's groups are drawn in one pass, each given guesses in the place of those it is drawn
with: the newest code of the left neighbour, which has been decoded or guessed itself. That is approximate, and poor for
units that were trained to see their neighbours; units with passes of any size (randar, masked) have unit.passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.sampling.drafts import padded
from pointillist.sampling.first_guesses import FirstGuesses
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace


@dataclass
class Options:
    name: str = "ancestral"
    merge: int = 1  # groups drawn in one pass

    def __post_init__(self) -> None:
        if self.merge < 1:
            raise ValueError(f"sampler.merge must be at least 1, got {self.merge}")


def claim(options: Options) -> str:
    """exact: the unit's own law; approximate: another, and nothing says how far."""
    return "exact" if options.merge == 1 else "approximate"


def check(generator: Any, options: Options) -> None:
    """Raises ValueError where these options do not fit the generator's codes."""
    if options.merge > 1 and not generator.windows:
        raise ValueError(f"unit={generator.unit.name} has no windows over discrete codes; use sampler.merge=1")


@torch.inference_mode()
def sample(law: Any, cond: Tensor, noise: Noise, images: Tensor, trace: Trace, options: Options) -> Tensor:
    """Codes [B, N, ...] of images [B] (global indices, which key the noise) with conditions cond [B]."""
    state = law.start(cond, images, noise)
    if options.merge > 1:
        return _merged(law, state, noise, images, trace, options.merge)
    groups, passes = law.groups(state), 0
    for group in groups:
        slots = group[:, None]  # [B, 1, g]
        dist = trace.query(law, state, slots)
        passes += dist.passes
        law.commit(state, dist.sample(noise, images, slots), keep=1)
    trace.steps = passes
    trace.kept(1, len(groups) * len(cond))
    trace.finished(passes, len(cond))
    return law.finish(state)


def _merged(law: Any, state: Any, noise: Noise, images: Tensor, trace: Trace, merge: int) -> Tensor:
    groups = padded(law.groups(state))
    total = groups.shape[1] - 1
    guesses = FirstGuesses("left", law, noise, images, groups)
    for done in range(0, total, merge):
        slots = groups[:, done : min(done + merge, total)]
        every = torch.ones_like(slots[:, :-1, 0], dtype=torch.bool)
        draft = guesses(slots[:, :-1], every)[0] if slots.shape[1] > 1 else None
        codes = trace.query(law, state, slots, draft).sample(noise, images, slots)
        law.commit(state, codes, keep=slots.shape[1])
        guesses.remember(slots, codes)
        trace.kept(slots.shape[1], len(images))
    trace.steps = total
    trace.finished(-(-total // merge), len(images))
    return law.finish(state)
