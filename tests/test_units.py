"""Laws that hold for every prediction unit: new files in models/units are found by themselves."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from pointillist import CodeSpec
from pointillist.models.dist import Categorical
from pointillist.models.generator import Generator
from pointillist.models.plan import Plan
from pointillist.models.units import token
from pointillist.sampling.noise import Noise
from tests.toys import GRID, toy_generator, toys

TOYS, IMAGES = toys(), torch.arange(3)


@pytest.fixture(params=TOYS, scope="module")
def toy(request) -> Generator:
    return TOYS[request.param]


def example(toy: Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(1)
    return torch.randint(11, (3, toy.spec.length)), torch.tensor([0, 3, 5]), toy.order(IMAGES, Noise(0))


def start(toy: Generator):
    return toy.start(torch.tensor([0, 3, 5]), IMAGES, Noise(0))


def steps_of(toy: Generator, order: torch.Tensor | None) -> torch.Tensor:
    """[3, N] the step in which each slot is predicted."""
    steps = toy.plan.step[toy.plan.place_of].expand(3, -1)
    return steps if order is None else torch.empty_like(order).scatter_(1, order, steps)


@torch.no_grad()
def test_no_logit_sees_a_code_of_its_own_or_a_later_step(toy):
    codes, cond, order = example(toy)
    steps, before = steps_of(toy, order), toy(codes, cond, order)
    for step in range(int(toy.plan.step.max()) + 1):
        changed = torch.where(steps >= step, (codes + 1) % 11, codes)
        after = toy(changed, cond, order)
        moved = (after - before).abs().amax(-1)
        assert moved[steps <= step].max() == 0
        if (steps > step).any() and toy.plan.num_codes == toy.plan.length:
            assert moved[steps > step].max() > 0, "the control: later logits do read the changed codes"


@torch.no_grad()
def test_a_mask_that_looks_one_step_ahead_is_caught():
    plan = token.plan(GRID, token.Options())
    leaky = Plan(plan.reads, plan.predicts, plan.at, plan.grid, plan.step // 2)
    toy = toy_generator(leaky, GRID)
    codes, cond, _ = example(toy)
    changed = codes.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    assert (toy(changed, cond) - toy(codes, cond))[:, 4].abs().max() > 0


@torch.no_grad()
def test_cached_decoding_equals_the_full_forward_at_every_place(toy):
    codes, cond, order = example(toy)
    full, state = toy(codes, cond, order), start(toy)
    for slots in toy.groups(start(toy)):
        dist = toy.query(state, slots[:, None])
        expected = torch.take_along_dim(full, slots[..., None], dim=1)
        assert (dist.logits[:, 0] - expected).abs().max() < 1e-10
        toy.commit(state, codes.gather(1, slots)[:, None], keep=1)
    assert torch.equal(state.codes[:, :-1], codes)


def uniform_groups(toy: Generator) -> torch.Tensor:
    """[3, S, g]; PAR and scales change their group size, so their windows are tested where it is constant."""
    groups = toy.groups(start(toy))
    return torch.stack([g for g in groups if g.shape[1] == groups[-1].shape[1]], dim=1)


@torch.no_grad()
def test_a_drafted_window_is_verified_in_one_pass(toy):
    codes, cond, order = example(toy)
    slots = uniform_groups(toy)
    full, state = toy(codes, cond, order), start(toy)
    for early in toy.groups(start(toy))[: -slots.shape[1]]:
        toy.query(state, early[:, None])
        toy.commit(state, codes.gather(1, early)[:, None], keep=1)
    true = codes.gather(1, slots.flatten(1)).view_as(slots)
    dist = toy.query(state, slots, true[:, :-1] if slots.shape[1] > 1 else None)
    expected = torch.take_along_dim(full, slots.flatten(1)[..., None], dim=1)
    assert (dist.logits.flatten(1, 2) - expected).abs().max() < 1e-10


@torch.no_grad()
def test_rejected_drafts_leave_no_trace(toy):
    """Ragged acceptance: wrong guesses of random length are fed and dropped, images advance at their own pace."""
    codes, cond, order = example(toy)
    slots = uniform_groups(toy)
    full, state = toy(codes, cond, order), start(toy)
    early = toy.groups(start(toy))[: -slots.shape[1]]
    for group in early:
        toy.query(state, group[:, None])
        toy.commit(state, codes.gather(1, group)[:, None], keep=1)
    total, true = slots.shape[1], codes.gather(1, slots.flatten(1)).view_as(slots)
    generator = torch.Generator().manual_seed(2)
    while bool((state.length < len(early) + total).any()):
        at = (state.length - len(early))[:, None] + torch.arange(3)
        inside = (at < total)[..., None]
        window = torch.where(inside, torch.take_along_dim(slots, at.clamp_max(total - 1)[..., None], dim=1), -1)
        right = torch.take_along_dim(true, at.clamp_max(total - 1)[..., None], dim=1)
        guess = torch.where(torch.rand(3, 2, 1, generator=generator) < 0.6, right[:, :2], (right[:, :2] + 1) % 11)
        dist = toy.query(state, window, guess)
        kept = 1 + (guess == right[:, :2]).all(-1).long().cumprod(1).sum(1)
        for image, group in product(range(3), range(3)):
            if group < kept[image] and inside[image, group]:
                expected = full[image, window[image, group]]
                assert (dist.logits[image, group] - expected).abs().max() < 1e-10
        toy.commit(state, right, torch.minimum(kept, inside.sum((1, 2))))
    assert torch.equal(state.codes[:, :-1], codes)


@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one():
    spec = CodeSpec(grids=((2, 2),), vocab=(3,), channels=1)
    toy = toy_generator(token.plan(spec, token.Options()), spec)
    codes = torch.tensor(list(product(range(3), repeat=4)))
    logits = toy(codes, torch.full((len(codes),), 2))
    total = Categorical(logits[:, :, None]).log_prob(codes[..., None]).sum((1, 2)).exp().sum()
    assert abs(float(total) - 1) < 1e-12


def test_an_untrained_model_is_uniform():
    generator = Generator(TOYS["token"].options, GRID, TOYS["token"].plan, num_classes=5).eval()
    codes, cond, _ = example(generator)
    assert generator.loss(codes, cond)["loss"].item() == pytest.approx(torch.tensor(11.0).log().item(), rel=1e-6)


def test_a_plan_predicts_every_code_exactly_once():
    plan = token.plan(GRID, token.Options())
    twice = plan.predicts.clone()
    twice[3] = 2
    with pytest.raises(AssertionError, match="exactly once"):
        Plan(plan.reads, twice, plan.at, plan.grid, plan.step)


def test_the_schedule_is_what_guidance_schedules_count():
    toy = TOYS["par"]
    assert toy.decoded(start(toy), 6).tolist() == [[0, 1, 2, 3, 4, 8]] * 3
    assert [len(g) for g in toy.plan.groups] == [1, 1, 1, 1, 4, 4, 4]
