"""masked: every unknown code is drawn in every pass, and the most trusted draws are kept (MaskGIT, arXiv 2202.04200).

After pass k of n, floor(N * schedule((k + 1) / n)) codes stay unknown, at least one fewer than before. Trust is
log p of the drawn code plus Gumbel noise that shrinks to nothing (pick=confidence), or the noise alone (pick=random).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace

# Share of the passes done -> share of the codes still unknown.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda r: math.cos(math.pi / 2 * r),  # MaskGIT
    "arccos": lambda r: math.acos(r) * 2 / math.pi,  # TiTok
    "square": lambda r: 1 - r * r,
    "linear": lambda r: 1 - r,
}


@dataclass
class Options:
    name: str = "masked"
    passes: int = 16
    schedule: str = "cosine"  # cosine | arccos | square | linear
    pick: Literal["confidence", "random"] = "confidence"
    choice_temperature: float = 4.5  # of the noise in the confidence, at the first pass

    def __post_init__(self) -> None:
        if self.passes < 1 or self.schedule not in SCHEDULES or not 0 <= self.choice_temperature < math.inf:
            raise ValueError(
                f"sampler.passes must be at least 1, sampler.schedule one of {', '.join(SCHEDULES)}, "
                f"sampler.choice_temperature at least 0; got {self.passes}, {self.schedule}, {self.choice_temperature}"
            )


FOLLOWS_SCHEDULE = False  # it chooses what to decode, whatever the unit's order and passes are


def fits(generator: Any) -> bool:
    """It needs the laws of any unknown codes given any known ones."""
    return generator.any_subset


def check(generator: Any, options: Options) -> None:
    """Raises ValueError where these options do not fit the generator's codes."""
    if not generator.spec.vocab and options.pick == "confidence":
        raise ValueError("continuous codes have no probability to trust; use sampler.pick=random")


def masked_after(length: int, passes: int, schedule: str) -> list[int]:
    """Codes still unknown after each pass, strictly falling to 0; fewer passes than asked where the codes run out."""
    left, counts = length, []
    for k in range(passes - 1):
        if left > 1:
            left = max(1, min(left - 1, math.floor(length * SCHEDULES[schedule]((k + 1) / passes))))
            counts.append(left)
    return [*counts, 0]


@torch.inference_mode()
def sample(law: Any, cond: Tensor, noise: Noise, images: Tensor, trace: Trace, options: Options) -> Tensor:
    """Codes [B, N, ...] of images [B] (global indices, which key the noise) with conditions cond [B]."""
    state, batch, length = law.start(cond, images, noise), len(cond), law.plan.num_codes
    slots = torch.arange(length, device=cond.device).expand(batch, 1, -1)
    known = law.revealed(state)[:, None]  # [B, 1, N]
    before = int((~known).sum(-1).max())
    counts = masked_after(before, options.passes, options.schedule)
    for k, left in enumerate(counts):
        dist = trace.query(law, state, slots)
        drawn = dist.sample(noise, images, slots + k * length)  # each pass has draws of its own
        trust = noise.gumbel("trust", images[:, None], torch.full_like(images[:, None], k), length)  # [B, 1, N]
        if options.pick == "confidence":
            trust = dist.log_prob(drawn) + options.choice_temperature * (1 - (k + 1) / len(counts)) * trust
        keep = trust.masked_fill(known, math.inf).argsort(-1, descending=True).argsort(-1) < length - left
        held = known.view(*known.shape, *[1] * (drawn.ndim - known.ndim))
        law.commit(state, torch.where(held, law.finish(state)[:, None].to(drawn.dtype), drawn), keep)
        known = keep
        trace.kept(before - left, batch)
        before = left
    trace.finished(len(counts), batch)
    return law.finish(state)
