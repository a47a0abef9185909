"""speculative = drafter x rule: guess the next groups cheaply, verify them all in one pass, keep what the rule lets.

Every image advances at its own pace. A lossless rule gives the unit's own law in fewer passes: a position's draft may
be redrawn, kept or coupled in any way, as long as its law given all earlier codes is the one declared, and when it is
committed depends on earlier codes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pointillist.sampling.drafters import jacobi
from pointillist.sampling.drafts import Draws, Guess, Setting, Verdict, padded, window
from pointillist.sampling.noise import Noise
from pointillist.sampling.rules import exact
from pointillist.sampling.trace import Trace

COMPACT = 0.75  # a batch is made smaller when no more than this share of it is unfinished


def part(folder: str, default: Any) -> Any:
    """An option whose value names a file of sampling/<folder>; `default` is that file's Options."""
    return field(default_factory=lambda: replace(default), metadata={"part": f"sampling/{folder}"})


@dataclass
class Options:
    name: str = "speculative"
    drafter: Any = part("drafters", jacobi.Options())
    rule: Any = part("rules", exact.Options())
    window: int = 16  # groups that are guessed in a pass; 0 = ancestral decoding
    ways: int = 1  # guesses of the next group, each with a chain of its own behind it

    def __post_init__(self) -> None:
        if self.window < 0 or self.ways < 1:
            raise ValueError(
                f"sampler.window must be at least 0 and sampler.ways at least 1, got {self.window} and {self.ways}"
            )


def of(folder: str, options: Any) -> ModuleType:
    return import_module(f"pointillist.sampling.{folder}.{options.name}")


def claim(options: Options) -> str:
    """exact: the unit's own law; relaxed: the rule spends total variation, which the trace measures."""
    return of("rules", options.rule).CLAIM


def fits(generator: Any) -> bool:
    """It needs windows over discrete codes."""
    return bool(generator.windows)


def check(generator: Any, options: Options) -> None:
    """Raises ValueError where these options do not fit the generator's codes."""
    rule, drafter, books = of("rules", options.rule), of("drafters", options.drafter), len(generator.spec.vocab)
    if options.ways > 1 and (books > 1 or max(map(len, generator.plan.groups)) > 1):
        raise ValueError("sampler.ways is for units that decode one code at a time; use sampler.ways=1")
    if options.ways > 1 and rule.CLAIM == "relaxed":
        raise ValueError(f"sampler.rule={options.rule.name} tries one guess of a code; use sampler.ways=1")
    if books > 1 and generator.options.books == "chain" and (rule.NEEDS_LAWS or drafter.needs_laws(options.drafter)):
        raise ValueError(
            "chained books have no laws side by side; they take sampler.rule=exact and sampler.drafter.coupling=gumbel"
        )
    for module, choice in ((rule, options.rule), (drafter, options.drafter)):
        if hasattr(module, "check"):
            module.check(generator, choice)


@torch.inference_mode()
def sample(law: Any, cond: Tensor, noise: Noise, images: Tensor, trace: Trace, options: Options) -> Tensor:
    """Codes [B, N, ...] of images [B] (global indices, which key the noise) with conditions cond [B]."""
    state, rule = law.start(cond, images, noise), of("rules", options.rule)
    groups = padded(law.groups(state))  # [B, S + 1, g]
    total, out = groups.shape[1] - 1, law.finish(state).clone()
    noise = noise.recalling()
    setting = Setting(law, cond, noise, images, groups, trace, options.ways, rule.NEEDS_LAWS)
    drafter = of("drafters", options.drafter).Drafter(options.drafter, setting)
    live, length, number, trace.steps = torch.arange(len(cond), device=cond.device), torch.zeros_like(cond), 0, total
    while len(live):
        draws = Draws(noise, setting.images, number)
        guess = drafter.propose(length, min(options.window, int((total - length).max())), draws)
        slots = window(setting.groups, length, guess.length + 1)
        verdict, dist = examine(law, state, guess, slots, draws, options, trace)
        keep = verdict.right().minimum(total - length)
        law.commit(state, verdict.codes, keep, guess.nodes(verdict.way) if guess.is_tree else None)
        drafter.observe(dist, guess, verdict, slots, draws, keep, law.features(state))
        account(trace, verdict, slots, keep, length + keep == total, number + 1, out.shape[1])
        length, number = length + keep, number + 1
        unfinished = length < total
        if unfinished.double().mean() <= COMPACT:
            out[live] = law.finish(state)
            rows = unfinished.nonzero()[:, 0]
            live, length, state = live[rows], length[rows], law.select(state, rows)
            setting.select(rows)
            drafter.select(rows)
    return out


def examine(
    law: Any, state: Any, guess: Guess, slots: Tensor, draws: Draws, options: Options, trace: Trace
) -> tuple[Verdict, Any]:
    """One pass of the target over a guess: the rule's verdict, and the laws that it was passed on."""
    if not guess.length:
        dist = trace.query(law, state, slots)
        codes = draws.fixed(dist, slots)
        return Verdict(torch.zeros_like(state.length), codes, codes[:, :0] >= 0), dist
    if not guess.is_tree:
        dist = trace.query(law, state, slots, guess.codes[:, 0])
    else:
        tree = guess.tree()
        dist = trace.query(law, state, slots[:, tree.depth.to(slots.device)], guess.codes.flatten(1, 2), tree)
    return of("rules", options.rule).verify(options.rule, law, dist, guess, slots, draws), dist


def account(
    trace: Trace, verdict: Verdict, slots: Tensor, keep: Tensor, done: Tensor, number: int, length: int
) -> None:
    """Note what images that were unfinished kept, which drafts were tested, and who is finished after pass number."""
    active = slots[:, 0, 0] >= 0
    for groups, times in enumerate(torch.bincount(keep[active]).tolist()):
        if times:
            trace.kept(groups, times)
    if times := int((done & active).sum()):
        trace.finished(number, times)
    kept = verdict.kept
    if kept.shape[1]:
        slots = slots[:, :-1]
        tested = verdict.reached[..., None] & (slots >= 0) & active[:, None, None]
        rejected, spent = (~kept).flatten(3).any(-1) if kept.ndim > 3 else ~kept, verdict.variation
        spent = torch.zeros_like(slots, dtype=torch.float64) if spent is None else spent
        spent = spent.flatten(3).sum(-1).clamp_max(1) if spent.ndim > 3 else spent  # books are independent
        trace.tested(slots[tested], rejected[tested], spent[tested], length)
