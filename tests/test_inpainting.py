"""Known codes: kept exactly, seen by every painted code, refused where a unit cannot."""

from __future__ import annotations

import pytest
import torch

from pointillist.configs.options import find
from pointillist.sampling import ancestral, masked
from pointillist.sampling.laws import Guided, Inpaint, Ordered, can_keep
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from tests.toys import random_codes, toy, toys

TOYS, IMAGES, COND = toys(), torch.arange(6), torch.arange(6) % 5


def leading(model) -> torch.Tensor:
    """The first half of the unit's own steps."""
    step = model.plan.step[model.plan.place_of]
    return (step < step.median())[None]


def draw(law, sampler=ancestral, **options):
    return sampler.sample(law, COND, Noise(3), IMAGES, Trace(), sampler.Options(**options))


STEPWISE = [n for n, m in TOYS.items() if m.plan.num_codes == m.spec.length and (m.any_order or len(m.plan.groups) > 1)]


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("guided", [False, True])
def test_known_codes_are_kept_and_painted_ones_are_the_units_own(name, guided):
    model = TOYS[name]
    torch.manual_seed(0)
    known = torch.rand(1, model.plan.num_codes) < 0.5 if model.any_order else leading(model)
    assert can_keep(model, known) and known.any() and not known.all()
    codes = random_codes(model, 1)
    law = Inpaint(Guided(model, 2.0) if guided else model, codes, known)
    painted = draw(law)
    kept = known[0].nonzero()[:, 0]
    assert torch.equal(painted[:, kept], codes[:, kept].expand(6, *codes[:, kept].shape[1:]).to(painted.dtype))
    assert len(painted.unique(dim=0)) > 1, "the rest is drawn"


def test_a_plan_continues_what_it_would_have_decoded():
    """Keeping the codes that a run itself decoded first changes nothing of what follows; other codes do."""
    model = TOYS["token"]
    own = draw(model)
    known = torch.arange(16)[None] < 9
    assert torch.equal(draw(Inpaint(model, own, known.expand(6, -1))), own)
    changed = (own + 1) % 11
    assert not torch.equal(draw(Inpaint(model, changed, known.expand(6, -1)))[:, 9:], own[:, 9:])


def test_painted_codes_see_every_known_one_in_units_of_any_order():
    """The law of one unknown code, given all others, is that of its slot decoded last; the last slot in raster too."""
    for name in ("randar", "masked"):
        model, codes = TOYS[name], random_codes(TOYS[name], 1).expand(6, -1)
        for slot in (0, 15):
            known = torch.arange(16)[None] != slot
            order = torch.cat([torch.arange(16)[known[0]], torch.tensor([slot])]).expand(6, -1)
            law = Inpaint(Ordered(model, order[:1]), codes[:1], known)
            state = model.start(COND, IMAGES, Noise(3), order)
            for group in model.groups(state)[:-1]:
                model.query(state, group[:, None])
                model.commit(state, codes.gather(1, group)[:, None], keep=1)
            group = model.groups(state)[-1]
            dist = model.query(state, group[:, None])
            expected = dist.sample(Noise(3), IMAGES, group[:, None])[:, 0, -1]
            if group.shape[1] == 1:
                assert torch.equal(draw(law)[:, slot], expected)


@pytest.mark.parametrize("pick", ["confidence", "random"])
def test_the_masked_sampler_keeps_known_codes(pick):
    model = TOYS["masked"]
    codes, known = random_codes(model, 1), torch.rand(1, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    painted = draw(Inpaint(Guided(model, 2.0), codes, known), masked, pick=pick, passes=4)
    assert torch.equal(painted[:, known[0]], codes[:, known[0]].expand(6, -1))


@pytest.mark.parametrize("name", ["token", "line", "scale", "flow", "flow, cells", "flow, scales", "par"])
def test_a_mask_that_a_unit_cannot_fill_is_refused(name):
    """The last code is known and the first is not: a fixed order would paint before it sees."""
    model = TOYS[name]
    known = torch.arange(model.spec.length)[None] == model.spec.length - 1
    assert not can_keep(model, known)
    with pytest.raises(AssertionError):
        Inpaint(model, random_codes(model, 1), known)
    assert can_keep(toy("randar"), torch.arange(16)[None] == 15), "the control: any order can"


def test_codes_of_one_step_may_be_known_in_part():
    """They are independent given the steps before, so the last line may hold both."""
    model = toy("line")
    known = (torch.arange(16) < 14)[None]
    assert can_keep(model, known) and not can_keep(model, known.flip(1))
    codes = random_codes(model, 1)
    assert torch.equal(draw(Inpaint(model, codes, known))[:, :14], codes[:, :14].expand(6, -1))


def test_every_sampler_says_what_it_needs():
    assert not find("sampling", "masked").fits(TOYS["token"]) and find("sampling", "masked").fits(TOYS["masked"])
