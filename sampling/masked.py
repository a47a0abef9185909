"""masked: every unknown code is drawn in every pass and some of the draws are kept, for units of any subset.

After pass k of n, floor(N * schedule((k + 1) / n)) codes stay unknown, at least one fewer than before, so passes >= N
decode one code a pass. Which draws are kept is the `pick`:

confidence     highest log p(drawn code) + choice_temperature * (1 - (k + 1) / n) * Gumbel (MaskGIT, Chang et al.,
               arXiv 2202.04200; its ports to PyTorch differ)
entropy        lowest entropy of the slot's law, with the same noise ("entropy" of Dream 7B, Ye et al., 2025); with
               choice_temperature=0 it depends on nothing but the law
halton         next in Halton's sequence over the plane of codes (Halton-MaskGIT, Besnier et al., arXiv 2503.17076,
               published with schedule=arccos and 32 passes; its code rounds the other way, and is one code behind)
random         chosen uniformly
first-hitting  chosen uniformly, and as many as are due: each code has a random share at which it is hit, and a pass
               reveals as many as the schedule has since come to (Zheng et al., arXiv 2409.02908). An image pays for
               the passes in which it is hit. Over a grid of passes this is the ancestral sampler of masked diffusion;
               with passes >= N every hit has a pass of its own, and as the times then cancel, they are not drawn

The default fits codes of every kind, has nothing to tune, and scored far better than MaskGIT's on the emoji runs.

Codes of one pass are drawn independently of one another, so only one code a pass follows the unit's own law: with
random and first-hitting its mean over all orders, with halton its law in that order, with entropy that in an order
which depends on the codes. confidence follows no law of the unit even then: it keeps a draw because of its value.

The law that is sampled is also the one that judges. At temperature 0 it is certain of every code, confidence and
entropy have nothing to tell codes apart by, and ties go to chance: greedy codes in random order. For nearly greedy
codes in the order of confidence take a small temperature, such as 0.1, with choice_temperature=0.

remask > 0 lets codes be drawn again (ReMDM, Wang et al., arXiv 2503.00307, section 4.1, "rescale"). A step from share
alpha_t known to alpha_s hides each known code with probability remask * min(1, (1 - alpha_s) / alpha_t), whatever it
is, and reveals as many more. Here their number is its mean, rounded up or down at random, so the schedule holds. Codes
that were given are never hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pointillist.models.dist import Categorical, Dist
from pointillist.models.orders import ORDERS
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace

# Share of the passes done -> share of the codes still unknown.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda r: math.cos(math.pi / 2 * r),  # MaskGIT
    "arccos": lambda r: math.acos(r) * 2 / math.pi,  # TiTok, Halton-MaskGIT
    "square": lambda r: 1 - r * r,
    "linear": lambda r: 1 - r,
}


@dataclass
class Options:
    name: str = "masked"
    passes: int = 16  # at most; as many as there are codes: one code a pass
    schedule: str = "cosine"  # cosine | arccos | square | linear
    pick: Literal["confidence", "entropy", "halton", "random", "first-hitting"] = "random"
    choice_temperature: float = 4.5  # confidence, entropy: of the noise in the choice, at the first pass; MaskGIT's
    remask: float = 0.0  # in [0, 1]: how much of what may be hidden again is, in every pass; 0 = nothing
    roll: bool = False  # halton: each image starts at its own place in the sequence (published: randomize)

    def __post_init__(self) -> None:
        if self.passes < 1 or self.schedule not in SCHEDULES or not 0 <= self.choice_temperature < math.inf:
            raise ValueError(
                f"sampler.passes must be at least 1, sampler.schedule one of {', '.join(SCHEDULES)}, "
                f"sampler.choice_temperature at least 0; got {self.passes}, {self.schedule}, {self.choice_temperature}"
            )
        if not 0 <= self.remask <= 1:
            raise ValueError(f"sampler.remask must lie in [0, 1], 0 = off, got {self.remask}")
        if self.roll and self.pick != "halton":
            raise ValueError(f"sampler.roll=true needs sampler.pick=halton, got {self.pick}; leave it off")


FOLLOWS_SCHEDULE = False  # it chooses what to decode, whatever the unit's order and passes are


def claim(options: Options) -> str:
    """Codes of one pass are drawn as if independent, or chosen by their own confidence: no law is claimed, though with
    a pass a code and a pick that does not look at them it is the any-order law, exactly."""
    return "approximate"


def fits(generator: Any) -> bool:
    """It needs the laws of any unknown codes given any known ones."""
    return generator.any_subset


def check(generator: Any, options: Options) -> None:
    """Raises ValueError where these options do not fit the generator's codes."""
    plane = len(generator.spec.grids) == 1 and len(generator.spec.grids[0]) == 2
    free = ", ".join(p for p in ("halton", "random", "first-hitting") if plane or p != "halton")
    if not generator.spec.vocab and options.pick in JUDGES:
        raise ValueError(f"continuous codes have no probability to judge by; use sampler.pick={free}")
    if options.pick == "entropy" and generator.options.books == "chain":
        raise ValueError(f"the entropy of chained books is not known in one pass; use sampler.pick=confidence, {free}")
    if options.pick == "halton" and not plane:
        judged = ", ".join(JUDGES) + ", " if generator.spec.vocab else ""
        raise ValueError(
            f"sampler.pick=halton needs codes on one plane, these lie on {generator.spec.grids}; use {judged}{free}"
        )


def entropy(dist: Categorical) -> Tensor:
    """[B, m, g] in nats, of all books together."""
    nats = torch.special.entr(dist.logits.softmax(-1)).sum(-1)
    return nats if dist.logits.ndim == 4 else nats.sum(-1)


# Picks that judge draws: the law and what was drawn from it -> trust [B, 1, N]. The others go by chance or by an order.
JUDGES: dict[str, Callable[[Dist, Tensor], Tensor]] = {
    "confidence": lambda dist, drawn: dist.log_prob(drawn),
    "entropy": lambda dist, drawn: -entropy(dist),
}


@torch.inference_mode()
def sample(law: Any, cond: Tensor, noise: Noise, images: Tensor, trace: Trace, options: Options) -> Tensor:
    """Codes [B, N, ...] of images [B] (global indices, which key the noise) with conditions cond [B]."""
    state, length = law.start(cond, images, noise), law.plan.num_codes
    slots = torch.arange(length, device=cond.device).expand(len(cond), 1, -1)
    given = known = law.revealed(state)[:, None]  # [B, 1, N]
    before = (~known).sum((1, 2))  # [B]
    schedule = unknown_after(int(before.max()), options, noise, images)
    turn, nfe = halton_turn(law, options, noise, images), torch.zeros_like(images)
    for k, left in enumerate(schedule):
        again = hidden_again(known & ~given, left, options.remask, noise, images, k)
        revealed = before - left + again.sum((1, 2))  # [B]
        if not revealed.any():
            continue  # a share of the schedule at which none of these images is hit
        dist = trace.query(law, state, slots)
        drawn = dist.sample(noise, images, slots + k * length)  # each pass has draws of its own
        chance = noise.gumbel("trust", images[:, None], torch.full_like(images[:, None], k), length)  # [B, 1, N]
        trust = chance if turn is None else turn
        if options.pick in JUDGES:
            heat = options.choice_temperature * (1 - (k + 1) / len(schedule))
            trust = JUDGES[options.pick](dist, drawn) + heat * chance
        trust = trust.masked_fill(known, math.inf).masked_fill(again, -math.inf)
        keep = ranks(trust, chance) < (length - left)[:, None, None]
        held = known.view(*known.shape, *[1] * (drawn.ndim - known.ndim))
        law.commit(state, torch.where(held, law.finish(state)[:, None].to(drawn.dtype), drawn), keep)
        known, before, nfe = keep, left, nfe + (revealed > 0)
        for count, times in counts(revealed[revealed > 0]):
            trace.kept(count, times)
    for passes, times in counts(nfe):
        trace.finished(passes, times)
    return law.finish(state)


def masked_after(length: int, passes: int, schedule: str) -> list[int]:
    """Codes still unknown after each pass, strictly falling to 0; fewer passes than asked where the codes run out."""
    left, numbers = length, []
    for k in range(passes - 1):
        if left > 1:
            share = SCHEDULES[schedule]((k + 1) / passes)
            left = max(1, min(left - 1, math.floor(length * share + 1e-9)))  # 10 * (1 - 8 / 10) is 1.99.. in fp64
            numbers.append(left)
    return [*numbers, 0]


def unknown_after(length: int, options: Options, noise: Noise, images: Tensor) -> Tensor:
    """[passes, B]: how many of `length` codes stay unknown after each pass.

    First-hitting: code l is unknown while the schedule is at u_l or above, u_l ~ U(0, 1) in fp64. Published samplers
    that race "stay unknown" against every token in fp32 cut the tail off the tokens' law: at 1/T a step, what lies
    about 17 nats below the leader never wins. Here a code is first hit, then drawn from its law.
    """
    if options.pick != "first-hitting" or options.passes >= length:
        left = torch.tensor(masked_after(length, options.passes, options.schedule), device=images.device)
        return left[:, None].expand(-1, len(images))
    shares = [SCHEDULES[options.schedule]((k + 1) / options.passes) for k in range(options.passes - 1)]
    hits = noise.uniform("hit", images, torch.zeros_like(images), length)  # [B, length]
    return (hits < hits.new_tensor([*shares, 0])[:, None, None]).sum(-1)


def halton_turn(law: Any, options: Options, noise: Noise, images: Tensor) -> Tensor | None:
    """Trust [B | 1, 1, N] fp64 that falls along Halton's sequence, or None for other picks."""
    if options.pick != "halton":
        return None
    turn = ORDERS["halton"](*law.spec.grids[0]).to(images.device).argsort()[None]  # [1, N]: slot -> its turn
    if options.roll:
        start = noise.uniform("roll", images, torch.zeros_like(images), 1) * turn.shape[1]  # [B, 1]
        turn = (turn - start.long()) % turn.shape[1]
    return -turn[:, None].double()


def hidden_again(own: Tensor, left: Tensor, remask: float, noise: Noise, images: Tensor, k: int) -> Tensor:
    """[B, 1, N] bool: which of the sampler's own known codes [B, 1, N] pass k hides, when `left` [B] stay unknown.

    alpha_t * min(1, (1 - alpha_s) / alpha_t) of all codes is the smaller of what is known and what stays unknown.
    """
    if not remask:
        return torch.zeros_like(own)
    u = noise.uniform("remask", images[:, None], torch.full_like(images[:, None], k), own.shape[-1] + 1)
    most = torch.minimum(own.sum((1, 2)), left)
    number = torch.minimum((remask * most + u[:, 0, -1]).floor(), most)
    return own & (u[..., :-1].masked_fill(~own, math.inf).argsort(-1).argsort(-1) < number[:, None, None])


def ranks(trust: Tensor, chance: Tensor) -> Tensor:
    """Places [B, 1, N] from the most trusted, 0, down; ties go to chance, as no corner of the image comes first."""
    order = chance.argsort(-1, descending=True)
    order = order.gather(-1, trust.gather(-1, order).argsort(dim=-1, descending=True, stable=True))
    return order.argsort(-1)


def counts(numbers: Tensor) -> list[tuple[int, int]]:
    """(number, how often) of integers [n]."""
    return list(zip(*(x.tolist() for x in numbers.unique(return_counts=True)), strict=True))
