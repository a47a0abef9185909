"""Known codes: kept exactly, seen by every painted code, refused where a unit cannot."""

from __future__ import annotations

import pytest
import torch

from pointillist.configs.options import find
from pointillist.models.orders import pass_sizes
from pointillist.models.units.masked import hidden_codes
from pointillist.sampling import ancestral, masked
from pointillist.sampling.laws import Inpaint, can_keep, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from tests.toys import others, random_codes, toy, toys

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
    law = Inpaint(target(model, 2) if guided else model, codes, known)
    painted = draw(law)
    kept = known[0].nonzero()[:, 0]
    assert torch.equal(painted[:, kept], codes[:, kept].expand(6, *codes[:, kept].shape[1:]).to(painted.dtype))
    assert len(painted.unique(dim=0)) > 1, "the rest is drawn"


def test_a_plan_continues_what_it_would_have_decoded():
    """Keeping the codes that a run itself decoded first changes nothing of what follows; other codes do."""
    model = TOYS["token"]
    own = draw(model)
    known = torch.arange(16)[None] < 9
    assert torch.equal(draw(Inpaint(model, own, known)), own)
    changed = (own + 1) % 11
    assert not torch.equal(draw(Inpaint(model, changed, known))[:, 9:], own[:, 9:])


@pytest.mark.parametrize("name", ["randar", "randar, four codes a pass", "masked"])
def test_painted_codes_see_every_known_one_in_units_of_any_order(name):
    """The law of the first painted code is that of an order where the known ones come before it; and the passes go to
    what is painted: as many, and as large, as an image of that many codes would have."""
    model, codes = TOYS[name], random_codes(TOYS[name], 1).expand(6, -1)
    known = torch.rand(1, 16, generator=torch.Generator().manual_seed(4)) < 0.5
    count, law = int(known.sum()), Inpaint(TOYS[name], codes, known)
    state = law.start(COND, IMAGES, Noise(3))
    groups = law.groups(state)
    painted = [group.shape[1] for group in groups if not known[0, group].any()]
    assert painted == pass_sizes(16 - count, model.unit.passes) and len(groups) - len(painted) <= 1
    if model.any_subset:
        full = model(hidden_codes(codes, ~known.expand(6, -1)), COND)
    else:
        full = model(codes, COND, state.order)  # RandAR's instruction sees all that stands before it
        law.query(state, groups[0][:, None])
        law.commit(state, codes.gather(1, groups[0])[:, None], keep=1)
        groups = groups[1:]
    law_of_first = law.query(state, groups[0][:, None]).logits[:, 0, 0]
    expected = full[torch.arange(6), groups[0][:, 0]]
    assert (law_of_first - expected).abs().max() < 1e-10
    assert (
        law_of_first - model(others(model, codes), COND, state.order)[torch.arange(6), groups[0][:, 0]]
    ).abs().max() > 0.1


@pytest.mark.parametrize("pick", ["confidence", "random"])
def test_the_masked_sampler_keeps_known_codes(pick):
    model = TOYS["masked"]
    codes, known = random_codes(model, 1), torch.rand(1, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    painted = draw(Inpaint(target(model, 2), codes, known), masked, pick=pick, passes=4)
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
