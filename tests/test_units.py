"""Laws that hold for every prediction unit: new files in models/units are found by themselves."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from pointillist import CodeSpec
from pointillist.configs.options import choices, find
from pointillist.models.generator import Generator
from pointillist.models.heads import Chained
from pointillist.models.plan import Misfit, Plan
from pointillist.models.units import token
from pointillist.sampling.noise import Noise
from tests import toys as t
from tests.toys import BOOKS, GRID, SMALLEST, at, numbers, others, random_codes, teacher, toy_generator, toys, untrained

TOYS, UNTRAINED, IMAGES, COND = toys(), toys(untrained), torch.arange(3), torch.tensor([0, 3, 5])
WINDOWED = [
    name
    for name, toy in TOYS.items()
    if not toy.modulated and not toy.any_subset and (toy.unit.name != "randar" or not toy.unit.passes)
]
# A parallel pass of RandAR is not a slice of one teacher-forced pass; the published recording tests it.
TAUGHT = [name for name in TOYS if name != "randar, four codes a pass"]
DISCRETE = [name for name, toy in TOYS.items() if toy.spec.vocab]


@pytest.fixture(params=TOYS, scope="module")
def toy(request) -> Generator:
    return TOYS[request.param]


@pytest.fixture(params=TAUGHT, scope="module")
def taught(request) -> Generator:
    """Units whose laws follow from full forward passes."""
    return TOYS[request.param]


@pytest.fixture(params=WINDOWED, scope="module")
def windowed(request) -> Generator:
    """Units whose groups can be drafted and verified together."""
    return TOYS[request.param]


def start(toy: Generator, order=None):
    return toy.start(COND, IMAGES, Noise(0), order)


def test_every_code_is_decoded_once(toy):
    groups = torch.cat(toy.groups(start(toy)), dim=1)
    assert torch.equal(groups.sort(dim=1).values, torch.arange(toy.plan.num_codes).expand(3, -1))


@torch.no_grad()
def test_no_law_sees_a_code_of_its_own_or_a_later_step(taught):
    toy = taught
    codes, state = random_codes(toy), start(toy)
    groups = toy.groups(state)
    before = teacher(toy, codes, COND, groups, state.order)
    for step in range(len(groups)):
        changed = codes.clone()
        for group in groups[step:]:
            changed[torch.arange(3)[:, None], group] = at(others(toy, codes), group)
        after = teacher(toy, changed, COND, groups, state.order)
        still = step if isinstance(toy.head, Chained) else step + 1  # a chain is given the true books of its own step
        assert all((a - b).abs().max() == 0 for a, b in zip(before[:still], after[:still], strict=True))
        moved = [float((a - b).abs().max()) for a, b in zip(before[step + 1 :], after[step + 1 :], strict=True)]
        assert not moved or max(moved) > 0, "the control: later laws do read the changed codes"


@torch.no_grad()
def test_a_mask_that_looks_one_step_ahead_is_caught():
    plan = token.plan(GRID, token.Options())
    toy = toy_generator(Plan(plan.reads, plan.predicts, plan.at, plan.grid, plan.step // 2), GRID)
    codes = random_codes(toy)
    changed = codes.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    assert (toy(changed, COND) - toy(codes, COND))[:, 4].abs().max() > 0


@torch.no_grad()
def test_cached_decoding_equals_the_full_forward_at_every_place(taught):
    toy = taught
    codes, state = random_codes(toy), start(toy)
    groups = toy.groups(state)
    for slots, expected in zip(groups, teacher(toy, codes, COND, groups, state.order), strict=True):
        true = at(codes, slots)[:, None]
        dist = toy.query(state, slots[:, None])
        assert (numbers(dist, true)[:, 0] - expected).abs().max() < 1e-10
        toy.commit(state, true, keep=1)
    assert torch.equal(state.codes[:, :-1], codes)


def uniform_groups(toy: Generator) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The groups before those of the last size, and those [3, S, g]: PAR and scales change their size."""
    groups = toy.groups(start(toy))
    last = [g for g in groups if g.shape[1] == groups[-1].shape[1]]
    return groups[: -len(last)], torch.stack(last, dim=1)


def led_in(toy: Generator, codes: torch.Tensor, early: list[torch.Tensor]):
    state = start(toy)
    for group in early:
        toy.query(state, group[:, None])
        toy.commit(state, at(codes, group)[:, None], keep=1)
    return state


@torch.no_grad()
def test_a_drafted_window_is_verified_in_one_pass(windowed):
    toy, codes = windowed, random_codes(windowed)
    early, slots = uniform_groups(toy)
    state = led_in(toy, codes, early)
    true = at(codes, slots.flatten(1)).unflatten(1, slots.shape[1:])
    dist = toy.query(state, slots, true[:, :-1] if slots.shape[1] > 1 else None)
    expected = torch.stack(teacher(toy, codes, COND, toy.groups(start(toy)), state.order)[len(early) :], dim=1)
    if toy.spec.vocab:
        assert (numbers(dist, true) - expected).abs().max() < 1e-10
    else:
        assert all((numbers(_one(dist, i), true[:, i : i + 1])[:, 0] - expected[:, i]).abs().max() < 1e-10
                   for i in range(len(expected[0])))  # fmt: skip


def _one(dist: t.Flow, i: int) -> t.Flow:
    """Group i of a window's flow, whose velocity takes the whole window."""
    groups = len(uniform_groups(TOYS["par, continuous"])[1][0])
    return t.Flow(lambda x, time: dist.velocity(x.expand(-1, groups, -1, -1), time)[:, i : i + 1], dist.channels, 1)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in WINDOWED if TOYS[name].spec.vocab])  # a flow's guess is never right
def test_rejected_drafts_leave_no_trace(name):
    """Ragged acceptance: wrong guesses of random length are fed and dropped, images advance at their own pace."""
    toy, codes = TOYS[name], random_codes(TOYS[name])
    early, slots = uniform_groups(toy)
    state = led_in(toy, codes, early)
    full = teacher(toy, codes, COND, toy.groups(start(toy)), state.order)
    total, true = slots.shape[1], at(codes, slots.flatten(1)).unflatten(1, slots.shape[1:])
    generator = torch.Generator().manual_seed(2)
    while bool((state.length < len(early) + total).any()):
        ahead = (state.length - len(early))[:, None] + torch.arange(3)
        inside = (ahead < total)[..., None]
        window = torch.where(inside, torch.take_along_dim(slots, ahead.clamp_max(total - 1)[..., None], dim=1), -1)
        right = at(true, ahead.clamp_max(total - 1))
        lucky = torch.rand(3, 2, 1, generator=generator) < 0.6
        lucky = lucky.view(3, 2, *[1] * (right.ndim - 2))
        guess = torch.where(lucky, right[:, :2], others(toy, right[:, :2]))
        laws = numbers(toy.query(state, window, guess), right)
        kept = 1 + (guess == right[:, :2]).flatten(2).all(-1).long().cumprod(1).sum(1)
        for image, group in product(range(3), range(3)):
            if group < kept[image] and inside[image, group]:
                expected = full[len(early) + int(ahead[image, group])][image]
                assert (laws[image, group] - expected).abs().max() < 1e-10
        toy.commit(state, right, torch.minimum(kept, inside.sum((1, 2))))
    assert torch.equal(state.codes[:, :-1], codes)


@torch.no_grad()
@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_of_all_images_sum_to_one(name):
    """Through the decoding path, in fp64, over every image of 4 codes of 3 (of 2 codes of two books of 3 and 2)."""
    big = TOYS[name]
    spec = SMALLEST.get(big.spec, CodeSpec(((1, 2),), (3, 2), 1))
    module, unit = find("models/units", big.unit.name), small(big.unit, spec)
    toy = toy_generator(module.plan(spec, unit), spec, type(big), unit, books=big.options.books)
    values = list(product(*[range(v) for v in spec.vocab] * spec.length))
    codes = torch.tensor(values).view(-1, spec.length, len(spec.vocab))
    codes = codes[..., 0] if len(spec.vocab) == 1 else codes
    same = torch.zeros(len(codes), dtype=torch.long)
    state = toy.start(torch.full_like(same, 2), same, Noise(0))
    total = torch.zeros(len(codes), dtype=torch.float64)
    for slots in toy.groups(state):
        true = at(codes, slots)[:, None]
        total += toy.query(state, slots[:, None]).log_prob(true).sum((1, 2))
        toy.commit(state, true, keep=1)
    assert len(codes) in (81, 36) and abs(float(total.exp().sum()) - 1) < 1e-12


def small(unit, spec):
    """Options of the unit that fit the small spec: its own, or size 1 where it has one; three passes if any."""
    options = {"passes": 3} if getattr(unit, "passes", 0) else {}
    try:
        find("models/units", unit.name).plan(spec, type(unit)(**options))
    except ValueError:
        options["size"] = 1
    return type(unit)(**options)


@pytest.mark.parametrize("name", DISCRETE)
def test_an_untrained_model_is_uniform(name):
    toy = UNTRAINED[name]
    expected = sum(torch.tensor(float(v)).log() for v in toy.spec.vocab).item()
    assert toy.loss(random_codes(toy), COND)["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_custom_orders_are_honoured(taught):
    toy = taught
    order = torch.stack(
        [torch.randperm(toy.plan.num_codes, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    )
    if not toy.any_order:
        with pytest.raises(ValueError, match="decodes in a fixed order"):
            start(toy, order)
        return
    state, codes = start(toy, order), random_codes(toy)
    groups = toy.groups(state)
    assert torch.equal(torch.cat(groups, dim=1), order)
    for slots, expected in zip(groups, teacher(toy, codes, COND, groups, order), strict=True):
        true = at(codes, slots)[:, None]
        assert (numbers(toy.query(state, slots[:, None]), true)[:, 0] - expected).abs().max() < 1e-10
        toy.commit(state, true, keep=1)


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
    assert TOYS["scale"].step_share(start(TOYS["scale"]), 3).tolist() == [[0, 0.5, 1]] * 3


@pytest.mark.parametrize("name", choices("models/units"))
def test_a_unit_is_a_short_file_and_names_itself_when_codes_do_not_fit(name):
    module, fits = find("models/units", name), 0
    own_generator = hasattr(module, "Generator")
    assert len(Path(module.__file__).read_text().splitlines()) <= (160 if own_generator else 50)
    for spec in (GRID, t.PYRAMID, t.LATENT, BOOKS):
        try:
            module.plan(spec, module.Options())
            fits += 1
        except Misfit as e:
            assert f"unit={name} needs" in str(e)
    assert fits


def captured(toy: Generator, **arguments) -> dict:
    """What loss() hands to hidden(), at a training step."""
    seen, hidden = {}, toy.hidden
    toy.hidden = lambda codes, cond, order=None, layout=None: (
        seen.update(codes=codes, cond=cond, order=order), hidden(codes, cond, order, layout))[1]  # fmt: skip
    toy.train()
    seen["loss"] = toy.loss(**arguments)["loss"]
    toy.eval()
    del toy.hidden
    return seen


def test_random_orders_give_way_to_raster_over_the_training():
    toy = t.toy("rar")
    torch.manual_seed(0)
    codes, cond = random_codes(toy, 400), torch.zeros(400, dtype=torch.long)
    raster = torch.arange(16)
    shares = {}
    for progress in (0.0, 0.49, 0.6, 0.76):
        order = captured(toy, codes=codes, cond=cond, progress=progress)["order"]
        shares[progress] = 0.0 if order is None else float((order != raster).any(1).double().mean())
        assert order is None or torch.equal(order.sort(1).values, raster.expand(400, -1))
    assert shares[0.0] == shares[0.49] == 1 and 0.5 < shares[0.6] < 0.7 and shares[0.76] == 0


def test_the_class_is_dropped_as_often_as_asked_and_only_in_training():
    toy = t.toy("token", model={"label_dropout": 0.3})
    codes, cond = random_codes(toy, 1000), torch.ones(1000, dtype=torch.long)
    torch.manual_seed(0)
    dropped = captured(toy, codes=codes, cond=cond)["cond"] == toy.num_classes
    assert 0.25 < float(dropped.double().mean()) < 0.35
    assert torch.equal(toy.drop(cond), cond), "not in evaluation"


def test_a_loss_compiles_while_its_training_proceeds():
    """progress is a Python number that changes at every step: it must not mean a compilation at every step."""
    compiled, graphs = {}, []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for name in ("token", "patch", "rar"):
        toy = t.toy(name)
        codes, graphs[:] = random_codes(toy), []
        loss = torch.compile(toy.loss, backend=backend)
        for step in range(24):
            torch.manual_seed(step)
            mine = loss(codes, COND, progress=step / 24)["loss"]
            torch.manual_seed(step)
            assert torch.allclose(mine, toy.loss(codes, COND, progress=step / 24)["loss"])
        compiled[name] = len(graphs)
    assert max(compiled.values()) < 12, compiled
