"""The control of test_exact_law.py: bugs that were published, and some that could be, as wrong variants of ours.

Each must show as a total variation between the sampler's law and the unit's own that the right sampler does not have.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from pointillist import CodeSpec
from pointillist.models.dist import Cut, warp
from pointillist.sampling import drafts, first_guesses
from pointillist.sampling.coupling import residual
from pointillist.sampling.drafters import jacobi, model
from pointillist.sampling.laws import Aided, target
from pointillist.sampling.rules import exact, mrs
from tests.branching import Branching, distance, draw, error, exact_law, options, sampled_law
from tests.tables import Table, line

SAME, WRONG = 1e-12, 1e-4
EXACT = exact.Options()


class StaleLaws(jacobi.Drafter):
    """SCD for Lumina and Janus: a guess that was carried over keeps the law it once had."""

    def observe(self, dist: Any, guess: Any, *rest: Any) -> None:
        super().observe(dist, guess, *rest)
        stays = self.codes[:, :-1] == guess.codes[:, 0]
        self.laws[:, :-1] = torch.where(stays[..., None], guess.laws[:, 0], self.laws[:, :-1])


class Confident(jacobi.Drafter):
    """SJD++ as told: a guess is kept where the new law is sure of it, else redrawn."""

    def observe(self, dist: Any, guess: Any, *rest: Any) -> None:
        super().observe(dist, guess, *rest)
        old = guess.codes[:, 0]
        sure = self.laws[:, :-1].gather(-1, old[..., None])[..., 0] > 0.6
        self.codes[:, :-1] = torch.where(sure, old, self.codes[:, :-1])


class Recorded(jacobi.Drafter):
    """SJD for batches: accepted guesses that the slowest image forbids to commit wait with their old laws."""

    def observe(self, dist: Any, guess: Any, verdict: Any, *rest: Any) -> None:
        super().observe(dist, guess, verdict, *rest)
        waits = verdict.accepted.cumprod(1).bool()[..., None]
        self.codes[:, :-1] = torch.where(waits, guess.codes[:, 0], self.codes[:, :-1])
        self.laws[:, :-1] = torch.where(waits[..., None], guess.laws[:, 0], self.laws[:, :-1])


class WithReplacement(jacobi.Drafter):
    """A second way is drawn from the other codes, and declared as if it were not."""

    def _part(self, guess: Any, *rest: Any) -> Any:
        parted = super()._part(guess, *rest)
        return drafts.Guess(parted.codes, parted.laws[:, :1].expand_as(parted.laws))


class CopiesAtRandom(first_guesses.FirstGuesses):
    """A copy of the neighbour that is declared as a random code."""

    def __call__(self, slots: torch.Tensor, fresh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, laws = super().__call__(slots, fresh)
        return codes, self.uniform.expand_as(laws)


def smallest_of_pairs(verdict: Any) -> torch.Tensor:
    """Two images in a batch that advance together."""
    right = 1 + verdict.accepted.cumprod(1).sum(1)
    return right.view(-1, 2).amin(1).repeat_interleave(2)


def warped_again(law: Any) -> Any:
    cut = Cut(temperature=law.temperature.first, top_p=law.top_p.first)
    return lambda p, taken: warp(residual(p, taken).log(), cut).softmax(-1)


def flattened(dist: Any) -> torch.Tensor:
    return (drafts.probabilities(dist).log() / 2).softmax(-1)


def one_key_for_all(self: Any, slots: torch.Tensor, books: tuple) -> torch.Tensor:
    return slots


def one_row_for_all(self: Any, dist: Any, slots: torch.Tensor) -> torch.Tensor:
    return dist.sample(self.noise, self.images, slots.clamp_max(0))


def read_once(self: Any, state: Any, m: int) -> torch.Tensor:
    return self.plan.decoded_before[state.length.clamp_max(len(self.plan.groups))][:, None].expand(-1, m)


PLAIN, THREE = Table("token", line(4), spread=2.0), Table("token", line(4, 3))
SHARP, NUCLEUS = target(THREE, temperature=0.5), target(THREE, top_p=0.7)
BUGS = {  # name: (where, attribute, wrong, sampler, law)
    "stale law of what was kept": (jacobi, "Drafter", StaleLaws, options(coupling="maximal"), PLAIN),
    "kept by confidence": (jacobi, "Drafter", Confident, options(), PLAIN),
    "residual from p": (mrs, "residual", lambda p, taken: p, options(), PLAIN),
    "residual warped again, top-p": (mrs, "residual", warped_again(NUCLEUS), options(window=2), NUCLEUS),
    "residual warped again, temperature": (mrs, "residual", warped_again(SHARP), options(window=2), SHARP),
    "last code of a window not warped": (
        mrs, "Categorical", lambda logits: drafts.Categorical(logits / 2), options(window=2), SHARP),
    "ways declared with replacement": (jacobi, "Drafter", WithReplacement, options(window=2, ways=2), THREE),
    "copies declared random": (jacobi, "FirstGuesses", CopiesAtRandom, options(init="left"), PLAIN),
    "passes share a key": (drafts.Draws, "_keys", one_key_for_all, options(coupling="maximal"), PLAIN),
    "slots share a key": (drafts.Draws, "fixed", one_row_for_all, options(coupling="gumbel"), PLAIN),
    "slots share a key, exact": (drafts.Draws, "fixed", one_row_for_all, options(EXACT, "gumbel"), PLAIN),
    "one code of a group is tested": (
        drafts.Verdict, "accepted", property(lambda v: v.kept.flatten(2).any(-1)), options(),
        Table("line", CodeSpec(((3, 2),), (2,), 1))),
    "schedule of the pass, not the slot": (
        Table, "decoded", read_once, options(), target(Table("token", line(4)), temperature="2..0.5")),
    "draft declares another law": (
        model, "probabilities", flattened, options(coupling="model"), Aided(PLAIN, Table("token", line(4), seed=1))),
}  # fmt: skip


@pytest.mark.parametrize("name", BUGS)
def test_published_bugs_are_seen(name, monkeypatch):
    where, attribute, wrong, how, law = BUGS[name]
    assert error(how, law) < SAME
    monkeypatch.setattr(where, attribute, wrong)
    assert error(how, law) > WRONG


@pytest.mark.parametrize(("drafter", "right"), [(jacobi.Drafter, True), (Recorded, False)])
def test_the_minimum_over_a_batch(drafter, right, monkeypatch):
    """To advance together is only slow; to test what waited against its old law is wrong."""
    monkeypatch.setattr(drafts.Verdict, "right", smallest_of_pairs)
    monkeypatch.setattr(jacobi, "Drafter", drafter)
    table = Table("token", line(3), spread=2.0)
    joint = sampled_law(partial(draw, options(window=2)), table, (0, 1))
    apart = distance(joint, np.multiply.outer(exact_law(table), exact_law(table, cond=1)))
    assert apart < SAME if right else apart > WRONG


@pytest.mark.parametrize("drafter", [jacobi.Drafter, StaleLaws])
def test_the_double_loses_nothing_by_what_it_does_not_branch(drafter, monkeypatch):
    """Draws that cannot matter, branched all the same, give the same law; of a wrong sampler, the same wrong law."""
    monkeypatch.setattr(jacobi, "Drafter", drafter)
    sample, table = partial(draw, options(coupling="maximal", window=2)), Table("token", line(3))
    few = sampled_law(sample, table)
    monkeypatch.setattr(Branching, "_matters", lambda self, stream, images, key: key >= 0)
    assert distance(few, sampled_law(sample, table)) < SAME
