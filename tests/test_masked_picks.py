"""The masked sampler's picks: how many codes a pass keeps and which, re-masking, and what does not fit."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch
from scipy import stats

from pointillist import CodeSpec
from pointillist.models.dist import Categorical
from pointillist.models.orders import ORDERS
from pointillist.sampling import masked
from pointillist.sampling.laws import Inpaint
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from tests.test_masked import COND, Recorded
from tests.toys import BOOKS, LATENT, random_codes, toy

SEQUENCE = CodeSpec(grids=((12,),), vocab=(11,), channels=4)
PICKS = get_args(get_type_hints(masked.Options)["pick"])
FREE = ("halton", "random", "first-hitting")  # of what was drawn


def draw(law, images=3, trace=None, **options) -> torch.Tensor:
    index = torch.arange(images)
    return masked.sample(law, index % 5, Noise(0), index, trace or Trace(), masked.Options(**options))


class Watched:
    """A law that notes which codes [B, N] are known after every pass, and what was asked of it before the pass."""

    def __init__(self, law) -> None:
        self.law, self.known, self.codes = law, [], []

    def __getattr__(self, name):
        return getattr(self.law, name)

    def commit(self, state, codes, keep) -> None:
        self.law.commit(state, codes, keep)
        self.known.append(self.law.revealed(state))
        self.codes.append(self.law.finish(state).clone())


# --------------------------------------------------------------------------------------------------------- how many


@pytest.mark.parametrize("pick", PICKS)
def test_every_pass_keeps_what_is_known_and_the_last_keeps_all(pick):
    trace = Trace()
    for passes in (1, 4, 16, 40):
        watched = Watched(toy("masked"))
        codes = draw(watched, trace=trace, passes=passes, pick=pick)
        assert codes.min() >= 0 and codes.shape == (3, 16) and watched.known[-1].all()
        for (earlier, later), (a, b) in zip(pairwise(watched.known), pairwise(watched.codes), strict=True):
            assert not (earlier & ~later).any() and torch.equal(a[earlier], b[earlier])
    if pick == "first-hitting":
        assert trace.nfe[16] == 6 and trace.nfe[1] == 3 and sum(trace.nfe.values()) == 12
    else:
        assert trace.nfe == {1: 3, 4: 3, 16: 6}, "40 passes of 16 codes are 16"
    assert sum(groups * times for groups, times in trace.committed.items()) == 4 * 3 * 16


@pytest.mark.parametrize("schedule", masked.SCHEDULES)
@pytest.mark.parametrize("pick", [p for p in PICKS if p != "first-hitting"])
@pytest.mark.parametrize("remask", [0.0, 0.5])
def test_the_known_codes_after_each_pass_follow_the_schedule(schedule, pick, remask):
    """With re-masking too: as many codes more are revealed as are hidden."""
    watched = Watched(toy("masked"))
    draw(watched, passes=6, pick=pick, schedule=schedule, remask=remask)
    shares = [masked.SCHEDULES[schedule](k / 6) for k in range(1, 6)]
    expected = [16 - math.floor(16 * share + 1e-9) for share in shares] + [16]
    assert [known.sum(1).tolist() for known in watched.known] == [[count] * 3 for count in expected]


@pytest.mark.parametrize("schedule", masked.SCHEDULES)
def test_as_many_passes_as_codes_are_one_code_a_pass(schedule):
    for length in (1, 2, 10, 16, 49, 107, 256):
        assert masked.masked_after(length, length, schedule) == list(range(length))[::-1]
        assert masked.masked_after(length, 1000, schedule) == list(range(length))[::-1]
    assert math.floor(10 * (1 - 8 / 10)) == 1, "the control: rounding down alone would skip one"


# -------------------------------------------------------------------------------------------------------- which codes


def test_halton_reveals_its_sequence():
    watched, order = Watched(toy("masked")), ORDERS["halton"](4, 4)
    draw(watched, passes=16, pick="halton", schedule="arccos")
    for count, known in enumerate(watched.known, start=1):
        assert known.all(0).nonzero()[:, 0].tolist() == sorted(order[:count].tolist())
    rolled, starts = Watched(toy("masked")), set()
    draw(rolled, passes=16, pick="halton", roll=True)
    for rows in torch.stack(rolled.known, dim=1):  # [passes, N]
        turns = torch.cat([rows[:1], rows[1:] & ~rows[:-1]]).nonzero()[:, 1].tolist()
        start = order.tolist().index(turns[0])
        assert turns == (order.tolist() * 2)[start : start + 16]
        starts.add(start)
    assert len(starts) > 1, "images start at places of their own"


def test_entropy_reveals_the_most_certain_laws_whatever_was_drawn():
    logits = torch.randn(2, 3, 12, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = []
    for seed in (0, 1):
        law = Watched(Recorded(logits))
        options = masked.Options(passes=2, pick="entropy", choice_temperature=0)
        codes = masked.sample(law, COND, Noise(seed), torch.arange(3), Trace(), options)
        seen.append((law.known[0], codes))
    p = logits[0].softmax(-1)
    certain = (p * p.log()).sum(-1).argsort(-1, descending=True)[:, : int(seen[0][0][0].sum())]
    assert torch.equal(seen[0][0], torch.zeros(3, 12, dtype=torch.bool).scatter(1, certain, True))
    assert torch.equal(seen[0][0], seen[1][0]) and not torch.equal(seen[0][1], seen[1][1])
    noisy = Watched(Recorded(logits))
    options = masked.Options(passes=2, pick="entropy", choice_temperature=10)
    masked.sample(noisy, COND, Noise(0), torch.arange(3), Trace(), options)
    assert not torch.equal(noisy.known[0], seen[0][0]), "the control: choice noise"


@pytest.mark.parametrize("pick", masked.JUDGES)
@pytest.mark.parametrize("choice_temperature", [0.0, 4.5])
def test_a_law_that_is_certain_of_all_leaves_the_choice_to_chance(pick, choice_temperature):
    """Temperature 0. Every code is the greedy one, and no slot is first more often than another."""
    logits = torch.full((2, 4000, 4, 3), -math.inf).index_fill(-1, torch.tensor([1]), 0.0)
    law = Watched(Recorded(logits))
    options = masked.Options(passes=2, pick=pick, choice_temperature=choice_temperature, schedule="linear")
    images = torch.arange(4000)
    codes = masked.sample(law, images * 0, Noise(0), images, Trace(), options)
    assert (codes == 1).all()
    first = law.known[0].sum(0)
    assert first.sum() == 8000 and stats.chisquare(first.numpy()).pvalue > 1e-6


# --------------------------------------------------------------------------------------------------------- re-masking


@pytest.mark.parametrize("pick", PICKS)
def test_remasking_hides_known_codes_and_draws_them_anew(pick):
    changed = {}
    for remask in (0.0, 1.0):
        watched = Watched(toy("masked"))
        draw(watched, 40, passes=8, pick=pick, remask=remask)
        assert watched.known[-1].all()
        pairs = list(pairwise(watched.known))
        lost = torch.stack([(a & ~b).sum(1) for a, b in pairs], dim=1)  # [B, passes - 1]
        both = [(a & b, c, d) for (a, b), (c, d) in zip(pairs, pairwise(watched.codes), strict=True)]
        assert all(torch.equal(c[kept], d[kept]) for kept, c, d in both), "what stays known stays the same"
        changed[remask] = lost
        if remask and pick != "first-hitting":
            most = [min(int(a[0].sum()), 16 - int(b[0].sum())) for a, b in pairs]
            assert lost.tolist() == [most] * 40, "the bound of ReMDM's sigma"
    assert not changed[0.0].any() and changed[1.0].sum() > 40


def test_the_number_hidden_is_remdms_in_the_mean_and_any_known_code_alike():
    own = torch.arange(16).expand(20_000, 1, -1) < 6
    images, left = torch.arange(20_000), torch.full((20_000,), 8)
    again = masked.hidden_again(own, left, 0.3, Noise(0), images, 3)
    assert not (again & ~own).any() and set(again.sum((1, 2)).tolist()) == {1, 2}
    mean = again.sum((1, 2)).double().mean().item()
    sigma = 0.3 * min(1, (8 / 14) / (6 / 14))  # 14 codes unknown or own before, 8 of them unknown after
    assert mean == pytest.approx(6 * sigma, abs=5 * math.sqrt(0.16 / 20_000))
    assert stats.chisquare(again.sum((0, 1))[:6].numpy()).pvalue > 1e-6
    few = masked.hidden_again(own, left * 0 + 2, 1.0, Noise(0), images, 3)
    assert (few.sum((1, 2)) == 2).all(), "no more than stay unknown"


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("remask", [0.0, 1.0])
def test_given_codes_never_move(pick, remask):
    model = toy("masked")
    codes, known = random_codes(model, 1), torch.rand(1, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    watched = Watched(Inpaint(model, codes, known))
    painted = draw(watched, 40, passes=4, pick=pick, remask=remask)
    assert all(now[:, known[0]].all() for now in watched.known), "never hidden"
    assert all(torch.equal(now[:, known[0]], codes[:, known[0]].expand(40, -1)) for now in watched.codes)
    assert (painted[:, ~known[0]] >= 0).all() and len(painted.unique(dim=0)) > 20
    others_hidden = any((a & ~b).any() for a, b in pairwise(watched.known))
    assert others_hidden == bool(remask), "the control: painted ones are"


# ----------------------------------------------------------------------------------------------- batches and refusals


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("extra", [{}, {"remask": 0.4}, {"passes": 3, "remask": 0.4}])
def test_an_image_and_its_cost_do_not_depend_on_the_batch(pick, extra):
    model, options = toy("masked"), masked.Options(**{"passes": 7, "pick": pick, **extra, "roll": pick == "halton"})
    images = torch.arange(16)

    def run(parts) -> tuple[torch.Tensor, Trace]:
        trace = Trace()
        found = [masked.sample(model, part % 5, Noise(5), part, trace, options) for part in parts]
        return torch.cat(found), trace

    together, cost = run([images])
    for size in (1, 5):
        split, same_cost = run(images.split(size))
        assert torch.equal(split, together)
        assert (same_cost.nfe, same_cost.committed) == (cost.nfe, cost.committed)
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run([shuffled])[0], together[shuffled])
    assert len(together.unique(dim=0)) > 8, "the control: different images differ"


@pytest.mark.parametrize("pick", PICKS)
def test_continuous_codes_are_picked_without_a_probability(pick):
    """MAR: a masked unit on latents."""
    model = toy("masked", LATENT, model={"flow_steps": 2})
    options = masked.Options(passes=3, pick=pick)
    if pick in FREE:
        masked.check(model, options)
        codes = draw(model, pick=pick, passes=3, remask=0.5)
        assert codes.shape == (3, 16, 4) and codes.isfinite().all()
    else:
        with pytest.raises(ValueError, match=r"use sampler.pick=halton, random, first-hitting$"):
            masked.check(model, options)


@pytest.mark.parametrize(
    ("spec", "model", "pick", "message"),
    [
        (SEQUENCE, {}, "halton", "one plane.*; use confidence, entropy, random, first-hitting$"),
        (BOOKS, {"books": "chain"}, "entropy", "chained books.*; use sampler.pick=confidence, halton, random, first-h"),
        (CodeSpec(((12,),), (), 4), {}, "confidence", "no probability to judge by; use sampler.pick=random, first-h"),
    ],
)
def test_picks_that_do_not_fit_the_codes_are_refused_with_those_that_do(spec, model, pick, message):
    generator = toy("masked", spec, model=model)
    with pytest.raises(ValueError, match=message):
        masked.check(generator, masked.Options(pick=pick))
    masked.check(generator, masked.Options(pick="random"))
    assert draw(generator, pick="random").shape[:2] == (3, spec.length)


def test_entropy_of_two_books_is_their_sum():
    dist = Categorical(torch.randn(2, 1, 3, 2, 5, dtype=torch.float64).index_fill(-1, torch.tensor([4]), -math.inf))
    assert masked.entropy(dist) == pytest.approx(torch.distributions.Categorical(logits=dist.logits).entropy().sum(-1))
    assert draw(toy("masked", BOOKS), pick="entropy").shape == (3, 16, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"passes": 0}, "sampler.passes must be at least 1"),
        ({"schedule": "cubic"}, "sampler.schedule one of cosine, arccos, square, linear"),
        ({"choice_temperature": float("nan")}, "sampler.choice_temperature at least 0"),
        ({"remask": 1.1}, r"sampler.remask must lie in \[0, 1\]"),
        ({"remask": float("nan")}, r"sampler.remask must lie in \[0, 1\]"),
        ({"roll": True, "pick": "random"}, "sampler.roll=true needs sampler.pick=halton"),
    ],
)
def test_options_without_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        masked.Options(**wrong)
