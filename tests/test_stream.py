"""Images that follow one another through a batch: each is the image that it would be in any other batch, or alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pointillist.models.eagle import Eagle
from pointillist.models.eagle import Options as EagleOptions
from pointillist.sampling import ancestral, gsd, jacobi, lantern, scd, sjd, speculative
from pointillist.sampling.drafters import jacobi as jacobi_drafts
from pointillist.sampling.drafters import model
from pointillist.sampling.drafts import Guess
from pointillist.sampling.laws import Aided, Inpaint, Ordered, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.rules import mrs
from pointillist.sampling.speculative import Batch
from pointillist.sampling.trace import Trace
from tests.toys import random_codes, toy, toys

COUNT, IMAGES = 10, torch.arange(10) * 7 + 2
TOYS = {name: each for name, each in toys().items() if jacobi.fits(each)}
SAMPLERS = {
    "jacobi": jacobi.Options(window=5),
    "jacobi, copies": jacobi.Options(window=5, drafter=jacobi_drafts.Options(init="above")),
    "sjd": sjd.Options(window=4),
    "scd": scd.Options(window=4),
    "gsd": gsd.Options(window=4),
    "lantern": lantern.Options(window=4),
    "resample": speculative.Options(
        window=4, rule=mrs.Options(), drafter=jacobi_drafts.Options(coupling="redraw", init="resample")
    ),
    "redraw, two ways": sjd.Options(window=3, ways=2),
    "model": speculative.Options(window=4, rule=mrs.Options(), drafter=model.Options()),
    "model, two ways": speculative.Options(window=3, ways=2, rule=mrs.Options(), drafter=model.Options()),
    "model, exact": speculative.Options(window=4, drafter=model.Options()),
}


@cache
def drafting(kind: str = "model") -> Any:
    """A second network, or a draft head, for the toy of single codes; random."""
    if kind == "model":
        other = toy("token")
    else:
        torch.manual_seed(3)
        other = Eagle(EagleOptions(), TOYS["token"]).double().eval()
    for parameter in other.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, dtype=parameter.dtype)
    return other


def law_of(name: str, guidance: float = 1, kind: str = "model") -> Any:
    vectors = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    draft = target(drafting(kind), guidance, temperature=2) if name == "token" else None
    return Aided(target(TOYS[name], guidance, temperature=2, top_p=0.97), draft, vectors)


def in_rows(law: Any, options: Any, rows: int, images: Tensor = IMAGES) -> tuple[Tensor, Trace]:
    """Codes [B, N, ...] of images that went through `rows` rows."""
    trace, found = Trace(), {}
    for at, codes in speculative.stream(law, images % 5, Noise(5), images, trace, options, rows):
        assert len(at) == len(codes) > 0 and not set(at.tolist()) & set(found), "each image once"
        found |= dict(zip(at.tolist(), codes, strict=True))
    return torch.stack([found[i] for i in range(len(images))]), trace


def alone(law: Any, options: Any) -> tuple[Tensor, Trace]:
    """Codes of the images one after another; one trace of all."""
    trace = Trace()
    return torch.cat(
        [speculative.sample(law, image % 5, Noise(5), image, trace, options) for image in IMAGES.split(1)]
    ), trace


def check(law: Any, options: Any) -> Tensor:
    codes, single = alone(law, options)
    assert len(codes.unique(dim=0)) > 1, "images differ"
    for rows in (3, COUNT):
        found, trace = in_rows(law, options, rows)
        assert torch.equal(found, codes), rows
        assert trace.nfe == single.nfe and trace.committed == single.committed and trace.steps == single.steps
        for name in ("verified", "rejected", "variation"):
            mine, theirs = getattr(trace, name), getattr(single, name)
            assert (mine is None) == (theirs is None) and (mine is None or (mine - theirs).abs().max() < 1e-9)
    return codes


# -------------------------------------------------------------------------------------------------- the same images


@pytest.mark.parametrize("guidance", [1, 2.5])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_is_the_same_whoever_was_in_its_row_before(sampler, guidance):
    check(law_of("token", guidance), SAMPLERS[sampler])


@pytest.mark.parametrize("guidance", [1, 2.5])
@pytest.mark.parametrize("name", [name for name in TOYS if name != "token"])
def test_of_every_unit_that_verifies_windows(name, guidance):
    """Orders of the images' own, steps of several codes, books, AdaLN: all of it goes with the row."""
    check(law_of(name, guidance), jacobi.Options(window=3))
    if len(TOYS[name].spec.vocab) == 1:
        check(law_of(name, guidance), sjd.Options(window=3))


@pytest.mark.parametrize("guidance", [1, 2.5])
@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("rule", [None, mrs.Options()])
def test_a_draft_head_waits_for_each_images_own_features(rule, ways, guidance):
    how = speculative.Options(window=4, ways=ways, drafter=model.Options(), **({"rule": rule} if rule else {}))
    check(law_of("token", guidance, "eagle"), how)


def test_inpainting_and_orders_of_a_request():
    known = torch.arange(16)[None] < 6
    kept = random_codes(TOYS["token"], 80)
    painted = check(Inpaint(law_of("token", 2.5), kept, known), jacobi.Options(window=4))
    assert torch.equal(painted[:, :6], kept[IMAGES, :6])
    orders = torch.rand(80, 16, generator=torch.Generator().manual_seed(2)).argsort(-1)
    check(Ordered(law_of("randar"), orders), sjd.Options(window=4))


@pytest.mark.parametrize("guidance", [1, 2.5])
def test_captions(guidance):
    """Their long prefix is read by all rows, so images that wait enter together; the images are the same."""
    model_of_captions = toy("token", model={"caption_length": 6, "caption_channels": 3})
    mask = torch.arange(6) >= torch.tensor([0, 3, 1, 5, 2])[:, None]
    model_of_captions.caption(torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(1)), mask)
    check(target(model_of_captions, guidance, temperature=2), jacobi.Options(window=4))


def test_sample_is_the_stream_collected_in_the_images_order():
    law = law_of("token", 2.5)
    codes = ancestral.sample(law, IMAGES % 5, Noise(5), IMAGES, Trace(), ancestral.Options())
    for rows in (1, 3):
        assert torch.equal(in_rows(law, jacobi.Options(window=5), rows)[0], codes)
    assert torch.equal(jacobi.sample(law, IMAGES % 5, Noise(5), IMAGES, Trace(), jacobi.Options(window=5)), codes)


def test_what_is_no_number_stays_in_its_image():
    """A network that overflows on one image leaves no trace in those that get its row."""
    law, options = law_of("token"), jacobi.Options(window=5)
    codes, _ = in_rows(law, options, 2)
    broken = toy("token")
    broken.load_state_dict(TOYS["token"].state_dict())
    broken.class_embedding.weight.data[4] = float("nan")  # class 4: images 0, 5
    found, _ = in_rows(target(broken, temperature=2, top_p=0.97), options, 2)
    well = IMAGES % 5 != 4
    assert torch.equal(found[well], codes[well]) and not torch.equal(found, codes)


# -------------------------------------------------------------------------------------------------- negative controls


def test_control_passes_of_the_batch_in_place_of_the_images_own(monkeypatch):
    refill = Batch.refill

    def wrong(batch: Batch, cond: Tensor, images: Tensor, at: Tensor) -> None:
        latest = int(batch.number.max())
        refill(batch, cond, images, at)
        batch.number[batch.number == 0] = latest

    law = law_of("token")
    codes, _ = alone(law, SAMPLERS["sjd"])
    monkeypatch.setattr(Batch, "refill", wrong)
    assert not torch.equal(in_rows(law, SAMPLERS["sjd"], 3)[0], codes)


def test_control_a_head_that_drafts_without_features(monkeypatch):
    law, how = law_of("token", 1, "eagle"), SAMPLERS["model"]
    codes, _ = alone(law, how)
    made = Guess.__init__
    monkeypatch.setattr(Guess, "__init__", lambda self, codes, laws=None, ready=None: made(self, codes, laws))
    assert not torch.equal(in_rows(law, how, 3)[0], codes)


# ------------------------------------------------------------------------------------------------------------- counts


def test_rows_are_refilled_and_the_last_batch_shrinks():
    """Fewer passes than batch after batch; no image waits for another."""
    law, options, images = law_of("token"), jacobi.Options(window=5), torch.arange(60)
    trace, apart = in_rows(law, options, 6, images)[1], Trace()
    for part in images.split(6):
        speculative.sample(law, part % 5, Noise(5), part, apart, options)
    assert trace.nfe == apart.nfe and trace.passes < apart.passes
    least = sum(passes * times for passes, times in trace.nfe.items()) / 6
    assert trace.passes <= least + max(trace.nfe), "all rows but those of the end are full"
    assert trace.tokens_fed < 6 * 6 * trace.passes, "the end's free rows are dropped"


def test_long_prefixes_are_read_together():
    """Free rows wait until they have cost as much as a first pass costs the others."""
    short, long = (toy("token", model={"caption_length": t, "caption_channels": 3}) for t in (1, 40))
    passes = []
    for each in (short, long):
        each.caption(torch.randn(5, 1, 3, generator=torch.Generator().manual_seed(1)))
        began, trace = [], Trace()
        query = each.query

        def counted(state: Any, *rest: Any, query=query, began=began) -> Any:
            began.append(bool((state.length == 0).any()))
            return query(state, *rest)

        each.query = counted
        for _ in speculative.stream(each, IMAGES % 5, Noise(5), IMAGES, trace, jacobi.Options(window=3), 5):
            pass
        passes.append(sum(began))
    assert passes[1] < passes[0], passes


def test_an_interrupted_stream_has_counted_whole_images_only():
    law, trace = law_of("token"), Trace()
    stream = speculative.stream(law, IMAGES % 5, Noise(5), IMAGES, trace, SAMPLERS["sjd"], 4)
    finished = sum(len(next(stream)[0]) for _ in range(2))
    stream.close()
    assert sum(trace.nfe.values()) == finished < COUNT
    assert sum(groups * times for groups, times in trace.committed.items()) == 16 * finished
    assert sum(trace.committed.values()) == sum(n * times for n, times in trace.nfe.items())
    assert int(trace.verified.sum()) > 0 and trace.passes >= max(trace.nfe)
