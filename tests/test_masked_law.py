"""The masked sampler's law: exact where codes are decoded one a pass, and masked diffusion's where hits decide."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from pointillist import CodeSpec
from pointillist.models.dist import Categorical
from pointillist.models.orders import ORDERS
from pointillist.sampling import masked
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from tests.toys import GRID, SMALLEST, toy


def draw(law, images: int, **options) -> torch.Tensor:
    """Codes of so many images, all of class 2."""
    index = torch.arange(images)
    return masked.sample(law, torch.full_like(index, 2), Noise(0), index, Trace(), masked.Options(**options))


def fits(found: torch.Tensor, expected, alpha: float = 1e-6) -> bool:
    """Do integers [n] follow a law of which `expected` are the counts? Rare outcomes are pooled."""
    counts = torch.bincount(found, minlength=len(expected)).double().numpy()
    expected, rare = np.asarray(expected), np.asarray(expected) < 10
    counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    if expected[-1] < 10:
        if counts[-1] > 40:
            return False
        counts, expected = counts[:-1], expected[:-1]
    return stats.chisquare(counts, expected * (counts.sum() / expected.sum())).pvalue > alpha


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_hits_are_binomial_and_independent_of_the_passes(schedule):
    """Each code is unknown after a pass with the schedule's probability; a finer grid only tells the times better."""
    images, options = torch.arange(20_000), {"pick": "first-hitting", "schedule": schedule}
    left = masked.unknown_after(16, masked.Options(passes=8, **options), Noise(2), images)
    assert left.shape == (8, 20_000) and (left.diff(dim=0) <= 0).all() and not left[-1].any()
    for k in (0, 3, 6):
        law = stats.binom(16, masked.SCHEDULES[schedule]((k + 1) / 8)).pmf(range(17)) * 20_000
        assert fits(left[k], law) and not fits((left[k] - 1).clamp_min(0), law)
    finer = masked.unknown_after(17, masked.Options(passes=16, **options), Noise(2), images)
    coarse = masked.unknown_after(17, masked.Options(passes=8, **options), Noise(2), images)
    assert torch.equal(finer[1::2], coarse)


class Table:
    """The laws of N codes of V tokens by what is known of them: logits [(V + 1) ** N, N, V], unknown first."""

    streams, any_subset = 1, True

    def __init__(self, logits: torch.Tensor) -> None:
        length, vocab = logits.shape[1:]
        self.logits, self.digits = logits, (vocab + 1) ** torch.arange(length - 1, -1, -1)
        self.plan = SimpleNamespace(num_codes=length)
        self.spec = CodeSpec(grids=((math.isqrt(length), math.isqrt(length)),), vocab=(vocab,), channels=1)

    def start(self, cond, images, noise):
        return SimpleNamespace(codes=torch.full((len(cond), self.plan.num_codes), -1), fed=self.plan.num_codes)

    def revealed(self, state):
        return state.codes >= 0

    def query(self, state, slots, *window):
        return Categorical(self.logits[((state.codes + 1) * self.digits).sum(-1)][:, None])

    def commit(self, state, codes, keep):
        state.codes = torch.where(keep, codes, -1)[:, 0]

    def finish(self, state):
        return state.codes

    def log_prob(self, images: torch.Tensor, first: tuple[int, ...]) -> torch.Tensor:
        """[n, N]: of every code of images [n, N], given those of the slots `first`."""
        codes = torch.full_like(images, -1)
        codes[:, list(first)] = images[:, list(first)]
        law = self.query(SimpleNamespace(codes=codes), None).logits[:, 0].log_softmax(-1)
        return law.gather(-1, images[..., None])[..., 0]


IMAGES = torch.cartesian_prod(*[torch.arange(3)] * 4)  # all 81 of 4 codes and 3 tokens


@pytest.fixture(scope="module")
def smallest():
    """A toy of 4 codes of 3 tokens as a table, and its law of all 81 images in each of the 24 orders, [24, 81]."""
    model, states = toy("masked", SMALLEST[GRID]), torch.cartesian_prod(*[torch.arange(-1, 3)] * 4)
    with torch.no_grad():
        table = Table(model(states, torch.full((256,), 2)))
    orders = list(permutations(range(4)))
    laws = [sum(table.log_prob(IMAGES, o[:i])[:, o[i]] for i in range(4)).exp() for o in orders]
    return table, orders, torch.stack(laws)


DRAWS = 60_000


def index_of(codes: torch.Tensor) -> torch.Tensor:
    """[B, 4] of 3 tokens -> [B] in the sequence of cartesian_prod."""
    return (codes * 3 ** torch.arange(3, -1, -1)).sum(-1)


@pytest.mark.parametrize("pick", ["random", "first-hitting"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_one_code_a_pass_in_random_order_is_the_mean_law_over_orders(smallest, pick, schedule):
    """Exhaustively: 81 images, 24 orders. Two passes of two codes are another law, and so is one fixed order."""
    model, orders, laws = smallest
    assert laws.sum(1) == pytest.approx(torch.ones(24))
    found = index_of(draw(model, DRAWS, passes=4, pick=pick, schedule=schedule))
    assert fits(found, laws.mean(0) * DRAWS)
    assert not fits(found, laws[orders.index((0, 1, 2, 3))] * DRAWS), "the control: raster"
    fewer = index_of(draw(model, DRAWS, passes=2, pick=pick, schedule=schedule))
    assert not fits(fewer, laws.mean(0) * DRAWS), "the control: codes of one pass are independent"


def test_one_code_a_pass_along_halton_is_the_law_of_that_order(smallest):
    model, orders, laws = smallest
    order = tuple(ORDERS["halton"](2, 2).tolist())
    found = index_of(draw(model, DRAWS, passes=4, pick="halton"))
    assert fits(found, laws[orders.index(order)] * DRAWS) and not fits(found, laws.mean(0) * DRAWS)
    rolled = index_of(draw(model, DRAWS, passes=4, pick="halton", roll=True))
    starts = torch.stack([laws[orders.index(order[i:] + order[:i])] for i in range(4)]).mean(0)
    assert fits(rolled, starts * DRAWS) and not fits(rolled, laws[orders.index(order)] * DRAWS)


def test_confidence_follows_no_law_even_at_one_code_a_pass(smallest):
    """What the docstring warns of, and why the picks above must not look at what was drawn."""
    model, _, laws = smallest
    assert not fits(index_of(draw(model, DRAWS, passes=4, pick="confidence")), laws.mean(0) * DRAWS)


def test_few_passes_of_first_hitting_are_masked_diffusions_ancestral_sampler(smallest):
    """Two passes of the linear schedule: every code is revealed first with probability 1/2, whatever the others are."""
    model, _, _ = smallest
    law = torch.zeros(81, dtype=torch.float64)
    for size in range(5):
        for first in combinations(range(4), size):
            now = torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(first, dtype=torch.long), True)
            law += torch.where(now, model.log_prob(IMAGES, ()), model.log_prob(IMAGES, first)).sum(1).exp() / 16
    options = {"passes": 2, "schedule": "linear"}
    assert fits(index_of(draw(model, DRAWS, pick="first-hitting", **options)), law * DRAWS)
    assert not fits(index_of(draw(model, DRAWS, pick="random", **options)), law * DRAWS), "the control: two and two"


def test_first_hitting_keeps_the_tail_that_a_race_against_staying_unknown_loses_in_fp32():
    """Masked diffusion in T = 2^14 steps: token v wins a step with probability p_v / T, against "stay unknown".

    In fp32 the Gumbel numbers come from the 2^24 values of torch.rand and end at 16.6. What they win, by going through
    all of them against every eighth of "stay unknown": the rarer a token, the more of its wins are lost, and the law
    sharpens as at a lower temperature (Zheng et al., arXiv 2409.02908). Ours hits first and draws then, in fp64.
    """
    p = torch.tensor([0.9, 0.0989, 0.001, 0.0001], dtype=torch.float64)
    grid = -torch.log(-torch.log(torch.arange(1, 2**24, dtype=torch.float32) / 2**24))
    assert grid.max() < 16.7
    step = (p / 2**14).log().float()
    wins = [(len(grid) - torch.searchsorted(grid, grid[::8] - s, right=True)).double().mean() for s in step]
    coarse = torch.stack(wins) / sum(wins)
    assert coarse[3] < 0.5 * p[3] and torch.special.entr(coarse).sum() < torch.special.entr(p).sum()

    draws = 400_000
    found = draw(Table(p.log().expand(5, 1, 4)), draws, pick="first-hitting", passes=1000)[:, 0]
    assert fits(found, p * draws) and not fits(found, coarse * draws)
