"""Samplers that draw codes before all that comes before them is known: ZipAR's front and merged groups."""

from __future__ import annotations

import pytest
import torch

from pointillist.configs.options import find
from pointillist.models.attention import masked
from pointillist.models.front import Front
from pointillist.sampling import ancestral, zipar
from pointillist.sampling.drafts import padded
from pointillist.sampling.first_guesses import FirstGuesses
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from tests.toys import GRID, toy

COND, IMAGES = torch.arange(12) % 6, torch.arange(12)


def draw(model, options, guidance: float = 2) -> tuple[torch.Tensor, Trace]:
    module, trace = find("sampling", options.name), Trace()
    module.check(model, options)
    codes = module.sample(target(model, guidance), COND, Noise(4), IMAGES, trace, options)
    return codes, trace


@pytest.mark.parametrize(("size", "window", "passes"), [(24, 16, 400), (24, 12, 312), (4, 1, 10), (4, 4, 16)])
def test_the_front_is_the_published_one(size, window, passes):
    """W + (H - 2) window + W passes; every slot once, after the one on its left and `window` of the row above."""
    found = zipar.fronts(size, size, window)
    assert len(found) == passes
    when = {slot: t for t, slots in enumerate(found) for slot in slots}
    assert sorted(when) == list(range(size * size)) and sum(map(len, found)) == size * size
    for slot in range(size, size * size):
        if slot % size:
            assert when[slot - 1] < when[slot]
        ahead = min(slot % size + window, size) - 1
        assert when[slot // size * size - size + ahead] < when[slot]
    assert all(when[slot] == slot for slot in range(size)), "the first row is decoded alone"


@pytest.mark.parametrize("name", ["token", "rar", "patch"])
def test_with_whole_rows_it_is_ancestral_decoding(name):
    model = toy(name)
    exact, _ = draw(model, ancestral.Options())
    whole, trace = draw(model, zipar.Options(window=4))
    assert torch.equal(whole, exact) and trace.summary()["nfe_per_image"] == 16
    ahead, trace = draw(model, zipar.Options(window=2))
    assert trace.summary()["nfe_per_image"] == 12
    assert torch.equal(ahead[:, :4], exact[:, :4]), "the first row knows all that it was trained to know"
    assert not torch.equal(ahead, exact), "the control: it is another law"


def test_a_front_sees_only_what_was_decoded():
    """Slot (1, 0) given row 0 up to its second code: what else the cache holds has no influence."""
    model, codes = toy("token"), torch.randint(11, (1, 16))
    laws = []
    for other in (codes, (codes + 1) % 11):
        state = model.start(torch.tensor([1]), torch.tensor([0]), Noise(0))
        fed = torch.zeros(model.plan.length, dtype=torch.bool)
        nothing = torch.empty(1, 0, 1, dtype=torch.long)
        for slot in (0, 1):
            model.query(state, torch.tensor([[[slot]]]), None, Front(fed, (nothing, nothing)))
            model.commit(state, codes[:, None, slot : slot + 1], keep=1)
        state.codes[:, 2:16] = other[:, 2:]
        stand_in = torch.tensor([[[3]]]), codes[:, None, 1:2]
        dist = model.query(state, torch.tensor([[[2], [4]]]), None, Front(fed, stand_in))
        laws.append(dist.logits)
    assert torch.equal(*laws)


def test_both_streams_of_guidance_read_the_stand_in():
    """Slot (2, 0), which reads the newest code of the row above instead of its last one: as without a cache."""
    model, codes = toy("token"), torch.randint(11, (3, 16), generator=torch.Generator().manual_seed(1))
    law, cond = target(model, 3), torch.tensor([1, 2, 3])
    state, fed = law.start(cond, torch.arange(3), Noise(0)), torch.zeros(16, dtype=torch.bool)
    nothing = torch.empty(3, 0, 1, dtype=torch.long)
    for slot in range(6):
        law.query(state, torch.full((3, 1, 1), slot), None, Front(fed, (nothing, nothing)))
        law.commit(state, codes[:, None, slot : slot + 1], keep=1)
    stand_in = torch.full((3, 1, 1), 7), codes[:, None, 5:6]
    dist = law.query(state, torch.full((3, 1, 1), 8), None, Front(fed, stand_in))
    read, streams = codes.clone(), []
    read[:, 7] = codes[:, 5]
    mask = model.layout.mask & ~torch.isin(torch.arange(16), torch.tensor([6, 7]))  # places that were not fed
    for c in (cond, model.null(cond)):
        x = model.embed(read, c, model.layout.index())
        x = model.transformer(x, model.layout.rope(model.layout.at[None]), masked(mask[None, None]))
        streams.append(model.head(x)[:, 8])
    expected = streams[1] + 3 * (streams[0] - streams[1])
    assert (dist.logits[:, 0, 0] - expected).abs().max() < 1e-10


def test_units_without_rows_are_refused():
    for model in (toy("par"), toy("token", order="hilbert"), toy("randar"), toy("scale")):
        with pytest.raises(ValueError, match="raster order on one plane"):
            zipar.check(model, zipar.Options(window=1))
    with pytest.raises(ValueError, match=r"window must lie in 1\.\.4"):
        zipar.check(toy("token", GRID), zipar.Options(window=5))


@pytest.mark.parametrize("name", ["token", "par", "subsample"])
def test_merged_groups_take_fewer_passes_and_are_marked(name):
    model = toy(name)
    exact, trace = draw(model, ancestral.Options())
    one, same = draw(model, ancestral.Options(merge=1))
    assert torch.equal(one, exact) and same == trace
    two, fewer = draw(model, ancestral.Options(merge=2))
    groups = len(model.plan.groups)
    assert fewer.summary()["nfe_per_image"] == -(-groups // 2)
    first, second = model.plan.groups[:2]
    assert torch.equal(two[:, first], exact[:, first]) and not torch.equal(two, exact)
    guesses = FirstGuesses("left", model, Noise(4), IMAGES, padded([g.expand(12, -1) for g in model.plan.groups]))
    read = torch.zeros_like(two)
    read[:, first] = guesses(first.expand(12, 1, -1), torch.ones(12, 1, dtype=torch.bool))[0][:, 0]
    given, null = (model(read, c)[:, second] for c in (COND, model.null(COND)))
    drawn = Noise(4).race("code", null + 2 * (given - null), IMAGES, second.expand(12, -1))
    assert torch.equal(two[:, second], drawn), "the second group is drawn given guesses of the first"
    assert (ancestral.claim(ancestral.Options()), ancestral.claim(ancestral.Options(merge=2))) == (
        "exact",
        "approximate",
    )


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(ValueError, match="unit=masked has no windows"):
        ancestral.check(toy("masked"), ancestral.Options(merge=2))
    with pytest.raises(ValueError, match="merge must be at least 1"):
        ancestral.Options(merge=0)
