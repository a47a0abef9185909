"""200,000 images of the real Noise against the exact law, for what cannot be followed outcome by outcome.

Five codes of three tokens, 243 images; chi-square with alpha = 1e-6, cells expected less than five times are pooled.
At this size a distance of the laws of about 1.6 % is seen. Images are independent too, and so are seeds.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pointillist.sampling import speculative
from pointillist.sampling.laws import Aided, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.rules import cool, exact, gsd, lantern, mrs
from pointillist.sampling.trace import Trace
from tests.branching import distance, draw, exact_law, number_of, options, sampled_law
from tests.tables import Table, line

IMAGES, ALPHA = 200_000, 1e-6
TABLE, DRAFT, SMALL = Table("token", line(5, 3)), Table("token", line(5, 3), seed=1), Table("token", line(3, 3))

SAMPLERS = {
    "redraw": options(coupling="redraw", window=3),
    "maximal": options(coupling="maximal", window=4),
    "gumbel": options(coupling="gumbel", window=4),
    "gumbel, resample": options(coupling="gumbel", window=3, init="resample"),
    "redraw, two ways": options(coupling="redraw", window=2, ways=2),
    "maximal, three ways": options(coupling="maximal", window=2, ways=3),
    "gumbel, two ways": options(coupling="gumbel", window=3, ways=2),
    "model": options(coupling="model", window=3),
    "model, two ways": options(coupling="model", window=2, ways=2),
    "exact": options(exact.Options(), "gumbel", window=3),
}


def sample(how: Any, law: Any = TABLE, noise: Noise | None = None, count: int = IMAGES, trace: Any = None) -> Tensor:
    """Codes [count, 5]."""
    images = torch.arange(count)
    cond = torch.zeros_like(images)
    return speculative.sample(Aided(law, DRAFT, torch.eye(3)), cond, noise or Noise(3), images, trace or Trace(), how)


@cache
def samples(name: str) -> Tensor:
    return sample(SAMPLERS[name])


def pvalue(numbers: Tensor, law: np.ndarray) -> float:
    """Of the chi-square test of cell numbers [n] against a law over the cells."""
    counts, expected = np.bincount(numbers.numpy(), minlength=law.size), law.ravel() * len(numbers)
    assert counts[expected == 0].sum() == 0, "codes outside of the support"
    few = expected < 5
    pooled = [np.append(x[~few], x[few].sum()) for x in (counts, expected)]
    counts, expected = (x[pooled[1] > 0] for x in pooled)
    return float(stats.chisquare(counts, expected).pvalue)


def marginal(law: np.ndarray, slots: tuple[int, ...]) -> np.ndarray:
    """Of the law of images [3^N], where slot 0 is the last axis of the cube."""
    length = round(np.log(law.size) / np.log(3))
    cube = law.reshape([3] * length).transpose(range(length)[::-1])
    return cube.sum(tuple(set(range(length)) - set(slots)))


def cell(codes: Tensor, slots: tuple[int, ...]) -> Tensor:
    """The number of each image's codes at these slots, as `marginal` counts them."""
    return sum(codes[:, slot] * 3**place for place, slot in enumerate(reversed(slots)))


# ------------------------------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_follow_the_exact_law(name):
    law, codes = exact_law(TABLE), samples(name)
    assert pvalue(number_of(codes, TABLE), law) > ALPHA
    for slots in [*[(slot,) for slot in range(5)], *combinations(range(5), 2)]:
        assert pvalue(cell(codes, slots), marginal(law, slots)) > ALPHA, slots


@pytest.mark.parametrize("name", ["maximal", "gumbel, two ways"])
def test_samplers_follow_a_guided_law_with_holes(name):
    law = target(TABLE, guidance="1..2", temperature="1.5..0.8", top_k=2)
    codes = number_of(sample(SAMPLERS[name], law), TABLE)
    assert pvalue(codes, exact_law(law)) > ALPHA
    assert (exact_law(law) == 0).sum() > 100, "the control: top-k leaves few images"


def test_control_a_biased_sampler_is_rejected_and_has_the_law_that_the_double_says(monkeypatch):
    """Replacements from p instead of the residual. Branching finds the wrong law, too, to the last digit."""
    how = SAMPLERS["redraw"]
    monkeypatch.setattr(mrs, "residual", lambda p, taken: p)
    assert pvalue(number_of(sample(how), TABLE), exact_law(TABLE)) < ALPHA
    numbers = number_of(sample(how, SMALL), SMALL)
    assert pvalue(numbers, exact_law(SMALL)) < ALPHA
    assert pvalue(numbers, sampled_law(partial(draw, how), SMALL)) > ALPHA


RELAXED = [cool.Options(), lantern.Options(k=1, delta=0.5), lantern.Options(k=2, delta=0.5, residual="paper"),
           gsd.Options(gap=1, distance=3), gsd.Options(gap=1, distance=3, residual="paper")]  # fmt: skip


@pytest.mark.parametrize("rule", RELAXED)
def test_relaxed_rules_spend_what_their_trace_says(rule):
    """Of the first code it says the distance from its law; over the slots, no less than the distance of the images'."""
    how, trace, few, law = options(rule, window=2), Trace(), IMAGES // 10, exact_law(SMALL)
    codes = sample(how, SMALL, count=few, trace=trace)
    found, spent = sampled_law(partial(draw, how), Aided(SMALL, None, torch.eye(3))), trace.variation / few
    assert pvalue(number_of(codes, SMALL), found) > ALPHA
    assert distance(marginal(found, (0,)), marginal(law, (0,))) == pytest.approx(float(spent[0]), abs=1e-9)
    assert 1e-3 < distance(found, law) < float(spent.sum()) + 5 / few**0.5


# ------------------------------------------------------------------------------------------------------- independence


def independent(one: Tensor, other: Tensor) -> float:
    """p-value of the first two codes of images one and other [n, 5] being independent, each with its law."""
    law = marginal(exact_law(TABLE), (0, 1)).ravel()
    return pvalue(cell(one, (0, 1)) * 9 + cell(other, (0, 1)), np.outer(law, law))


@pytest.mark.parametrize("name", ["maximal", "gumbel", "exact"])
def test_images_of_a_batch_and_consecutive_seeds_are_independent(name):
    codes = samples(name)
    assert independent(codes[::2], codes[1::2]) > ALPHA
    assert independent(codes, sample(SAMPLERS[name], noise=Noise(4))) > ALPHA


def test_control_shared_noise_is_seen(monkeypatch):
    race, codes = Noise.race, samples("exact")
    assert independent(codes, codes) < ALPHA, "one seed for both"
    monkeypatch.setattr(Noise, "race", lambda noise, name, p, images, slots: race(noise, name, p, images // 2, slots))
    codes = sample(SAMPLERS["exact"])
    assert independent(codes[::2], codes[1::2]) < ALPHA, "two images with the noise of one"
    assert pvalue(cell(codes[::2], (0, 1)), marginal(exact_law(TABLE), (0, 1))) > ALPHA, "each by itself is right"


def test_control_one_noise_row_for_all_slots_is_seen(monkeypatch):
    race = Noise.race
    monkeypatch.setattr(Noise, "race", lambda noise, name, p, images, slots: race(noise, name, p, images, slots * 0))
    codes = sample(SAMPLERS["exact"])
    assert pvalue(cell(codes, (0,)), marginal(exact_law(TABLE), (0,))) > ALPHA, "the first code is right"
    assert pvalue(cell(codes, (0, 1)), marginal(exact_law(TABLE), (0, 1))) < ALPHA
