"""speculative = drafter x rule: guess the next groups cheaply, verify them all in one pass, keep what the rule lets.

Every image advances at its own pace. A lossless rule gives the unit's own law in fewer passes: a position's draft may
be redrawn, kept or coupled in any way, as long as its law given all earlier codes is the one declared, and when it is
committed depends on earlier codes alone. Nothing of an image depends on its batch, so the row of a finished one goes to
the next, and the batch stays full.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from pointillist.sampling.tally import Tally
from pointillist.sampling.trace import Trace

REFILL = 1 / 32  # images that wait enter a batch when at least this share of its rows is free
COMPACT = 0.75  # when none waits, it is made smaller as soon as no more than this share of it is unfinished


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
    at, codes = zip(*stream(law, cond, noise, images, trace, options, len(images)), strict=True)
    return torch.cat(codes)[torch.cat(at).argsort()]


@torch.inference_mode()
def stream(
    law: Any, cond: Tensor, noise: Noise, images: Tensor, trace: Trace, options: Options, rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same images, `rows` of them side by side: positions [b] of the newly finished and their codes [b, N, ...]."""
    waiting = torch.arange(len(images), device=images.device)
    now, waiting = waiting[:rows], waiting[rows:]
    batch = Batch(law, cond[now], noise.recalling(), images[now], now, trace, options)
    while batch.unfinished:
        if len(done := batch.advance()):
            yield batch.at[done], law.finish(batch.state)[done]
        if not len(waiting):
            batch.compact()
        elif batch.wants_more():
            entering, waiting = waiting[: batch.free], waiting[batch.free :]
            for now in entering.split(-(-rows // 8)):  # a start takes memory for caches of its own
                batch.refill(cond[now], images[now], now)


class Batch:
    """Images side by side.

    at      [B] their positions among all
    length  [B] groups that are committed
    number  [B] passes that each has made
    live    [B] bool: unfinished; the rows of the others are free
    """

    def __init__(
        self, law: Any, cond: Tensor, noise: Noise, images: Tensor, at: Tensor, trace: Trace, options: Options
    ) -> None:
        self.law, self.noise, self.options, self.trace = law, noise, options, trace
        self.state = law.start(cond, images, noise)
        groups = padded(law.groups(self.state))  # [B, S + 1, g]
        self.total = trace.steps = groups.shape[1] - 1
        with_laws = of("rules", options.rule).NEEDS_LAWS
        self.setting = Setting(law, cond, noise, images, groups, trace, options.ways, with_laws)
        self.drafter = of("drafters", options.drafter).Drafter(options.drafter, self.setting)
        self.tally = Tally(images, options.window, law.finish(self.state).shape[1])
        self.at, self.live = at.clone(), torch.ones_like(at, dtype=torch.bool)
        self.length, self.number = torch.zeros_like(at), torch.zeros_like(at)
        self.unfinished, self.idle = len(at), 0.0

    @property
    def free(self) -> int:
        return len(self.live) - self.unfinished

    def advance(self) -> Tensor:
        """One pass; the rows [b] of the images that it finished."""
        law, state, left = self.law, self.state, self.total - self.length
        draws = Draws(self.noise, self.setting.images, self.number)
        guess = self.drafter.propose(self.length, min(self.options.window, int(left.max())), draws)
        slots = window(self.setting.groups, self.length, guess.length + 1)
        verdict, dist = examine(law, state, guess, slots, draws, self.options, self.trace)
        keep = verdict.right().minimum(left)
        law.commit(state, verdict.codes, keep, guess.nodes(verdict.way) if guess.is_tree else None)
        self.drafter.observe(dist, guess, verdict, slots, draws, keep, law.features(state))
        self.tally.count(verdict, slots, keep, self.live)
        self.idle += state.fed * self.free / len(self.live)
        self.length, self.number = self.length + keep, self.number + 1
        done = (self.live & (self.length == self.total)).nonzero()[:, 0]
        self.live[done], self.unfinished = False, self.unfinished - len(done)
        self.tally.report(self.trace, done, self.number[done])
        return done

    def wants_more(self) -> bool:
        """Enough rows are free. A first pass reads the condition, and with it all rows read so many places more: where
        that is a long prefix it waits until free rows have cost as much."""
        worth = self.free >= REFILL * len(self.live) and self.idle >= self.law.plan.prefix
        return bool(self.free) and (worth or not self.unfinished)

    def refill(self, cond: Tensor, images: Tensor, at: Tensor) -> None:
        """Begin with images [b] at positions `at` [b], in rows that are free."""
        rows = (~self.live).nonzero()[: len(at), 0]
        fresh = self.law.start(cond, images, self.noise)
        self.law.refill(self.state, rows, fresh)
        self.setting.refill(rows, cond, images, padded(self.law.groups(fresh)))
        self.drafter.refill(rows)
        self.tally.refill(rows)
        self.at[rows], self.length[rows], self.number[rows], self.live[rows] = at, 0, 0, True
        self.unfinished, self.idle = self.unfinished + len(at), 0.0

    def compact(self) -> None:
        """Go on without the free rows, where there are many."""
        if not 0 < self.unfinished <= COMPACT * len(self.live):
            return
        rows = self.live.nonzero()[:, 0]
        self.state = self.law.select(self.state, rows)
        for part in (self.setting, self.drafter, self.tally):
            part.select(rows)
        self.at, self.length, self.number, self.live = (x[rows] for x in (self.at, self.length, self.number, self.live))


def examine(
    law: Any, state: Any, guess: Guess, slots: Tensor, draws: Draws, options: Options, trace: Trace
) -> tuple[Verdict, Any]:
    """One pass of the target over a guess: the rule's verdict, and the laws that it was passed on."""
    if not guess.length:
        dist = trace.query(law, state, slots)
        codes = draws.fixed(dist, slots)
        return Verdict(torch.zeros_like(state.length), codes, codes[:, :0] >= 0), dist
    if not guess.is_tree:
        nodes, dist = slots, trace.query(law, state, slots, guess.codes[:, 0])
    else:
        tree = guess.tree()
        nodes = slots[:, tree.depth.to(slots.device)]
        dist = trace.query(law, state, nodes, guess.codes.flatten(1, 2), tree)
    verdict = of("rules", options.rule).verify(options.rule, law, dist, guess, slots, draws)
    return verdict if guess.ready is None else verdict.only(guess.ready, draws.fixed(dist, nodes)[:, :1]), dist
