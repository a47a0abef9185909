"""Noise, laws and the ancestral sampler."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pointillist.configs.options import choices, find
from pointillist.models.dist import Categorical, Cut, warp
from pointillist.sampling import ancestral
from pointillist.sampling.labels import labels_of
from pointillist.sampling.laws import Aided, Guided, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.schedules import CURVES, Schedule
from pointillist.sampling.trace import Trace
from tests.toys import GRID, toy_generator, toys

TOYS = toys()
TOKEN = TOYS["token"]


def grid(images: int, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(images)[:, None].expand(-1, slots), torch.arange(slots).expand(images, -1)


# --------------------------------------------------------------------------------------------------------------- noise


def test_uniform_noise_is_uniform_and_never_zero_or_one():
    u = Noise(3).uniform("code", *grid(50, 40), 200)
    assert u.dtype == torch.float64 and u.min() > 0 and u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-6


def test_noise_of_neighbouring_keys_is_independent():
    u = Noise(0).uniform("code", *grid(60, 60), 60)
    for axis in range(3):
        a, b = u.movedim(axis, 0)[:-1].flatten(), u.movedim(axis, 0)[1:].flatten()
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / math.sqrt(len(a))
    for other in (Noise(1).uniform("code", *grid(60, 60), 60), Noise(0).uniform("order", *grid(60, 60), 60)):
        assert abs(float(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1])) < 0.02


def test_noise_depends_on_the_key_alone():
    images, slots = grid(6, 5)
    whole = Noise(0).gumbel("code", images, slots, 30)
    assert torch.equal(whole[3:4, 2:3, :7], Noise(0).gumbel("code", images[3:4, 2:3], slots[3:4, 2:3], 7))


def test_gumbel_race_follows_the_law():
    logits = torch.tensor([2.0, 0.0, -1.0, float("-inf"), 1.0])
    slots = torch.arange(40_000)[None, :, None]
    codes = Categorical(logits.expand(1, 40_000, 1, -1)).sample(Noise(0), torch.tensor([9]), slots).flatten()
    expected = logits.double().softmax(-1) * len(codes)
    counts = torch.bincount(codes, minlength=5).double()
    assert counts[3] == 0
    kept = expected > 0
    assert stats.chisquare(counts[kept].numpy(), expected[kept].numpy()).pvalue > 1e-6


@pytest.mark.parametrize("kept", [0, 1, 40, 300])
def test_a_race_among_few_tokens_has_the_winner_of_a_race_among_all(kept):
    """Excluded tokens are given no noise; the others meet theirs. The control: noise by rank among those that run."""
    images, slots = torch.arange(50), torch.arange(100).view(50, 2)
    logits, noise = torch.randn(50, 2, 300, generator=torch.Generator().manual_seed(0)), Noise(7)
    out = logits.argsort(-1).argsort(-1) >= kept
    cut = logits.masked_fill(out, float("-inf"))
    everyone = noise.gumbel("code", images[:, None].expand(50, 2), slots, 300)
    assert torch.equal(noise.race("code", cut, images, slots), (cut.double() + everyone).argmax(-1))
    assert torch.equal(noise.recalling().race("code", cut, images, slots), noise.race("code", cut, images, slots))
    if kept == 40:
        rank = (logits[~out].view(50, 2, 40).double() + everyone[..., :40]).argmax(-1)
        token = (~out).nonzero()[:, -1].view(50, 2, 40).gather(-1, rank[..., None])[..., 0]
        assert (token != noise.race("code", cut, images, slots)).any()


def test_fp64_noise_reaches_tails_that_fp32_cannot():
    """A tail of total mass 0.02 spread over tokens 20 nats below the leader: fp32's 24-bit uniforms never pick them."""
    tokens = 2**18
    logits = torch.full((1, 64, 1, tokens), -20.5)
    logits[..., 0] = 0.0
    slots = torch.arange(64)[None, :, None]
    expected = 64 * (tokens - 1) * math.exp(-20.5)
    exact = (Categorical(logits).sample(Noise(0), torch.tensor([0]), slots) > 0).sum()
    coarse = (
        (torch.rand(64, tokens, generator=torch.Generator().manual_seed(0)).clamp_min(2**-24)).log().neg().log().neg()
    )
    assert coarse.max() < 17 and (logits[0, :, 0] + coarse).argmax(-1).max() == 0
    assert abs(float(exact) - expected) < 5 * math.sqrt(max(expected, 1))


# ---------------------------------------------------------------------------------------------------------------- laws


def test_guidance_of_one_is_the_conditional_law_and_zero_the_unconditional():
    cond = torch.tensor([1, 4])
    slots = torch.zeros(2, 1, 1, dtype=torch.long)
    images = torch.arange(2)
    plain = TOKEN.query(TOKEN.start(cond, images, Noise(0)), slots).logits
    null = TOKEN.query(TOKEN.start(TOKEN.null(cond), images, Noise(0)), slots).logits
    for scale, expected in ((1.0, plain), (0.0, null), (3.0, null + 3 * (plain - null))):
        guided = Guided(TOKEN, Schedule(scale, scale))
        assert (guided.query(guided.start(cond, images, Noise(0)), slots).logits - expected).abs().max() < 1e-10
    assert (plain - null).abs().max() > 0.1


@pytest.mark.parametrize("schedule", [*CURVES, "cosine:2.75"])
def test_guidance_is_a_function_of_the_slot_not_of_the_pass(schedule):
    """The law of slot 9 is the same as the first of its pass and as the last of a window of ten."""
    codes, cond = torch.randint(11, (1, 16)), torch.tensor([2])
    laws = []
    for before in (0, 9):
        law = target(TOKEN, f"1..4:{schedule}", guidance_interval=(0.1, 0.9))
        state = law.start(cond, torch.tensor([0]), Noise(0))
        groups = torch.stack(law.groups(state), 1)
        for i in range(before):
            law.query(state, groups[:, i : i + 1])
            law.commit(state, codes[:, i, None, None], keep=1)
        window = groups[:, before:10]
        draft = codes[:, before:9, None] if before < 9 else None
        laws.append(law.query(state, window, draft).logits[:, -1])
    assert (laws[0] - laws[1]).abs().max() < 1e-10


def test_warp_keeps_its_input_and_its_edge_cases():
    logits = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    copy = logits.clone()
    assert warp(logits, Cut(top_k=2)).isfinite().tolist() == [[True, True, True, False]], "ties with the k-th survive"
    assert warp(logits, Cut(top_p=0.1)).isfinite().tolist() == [[True, False, False, False]], (
        "the crossing token is kept"
    )
    assert warp(torch.zeros(1, 5), Cut(top_p=0.4)).isfinite().sum() == 3, "what comes before the third is 0.4, not more"
    assert warp(logits, Cut(temperature=0)).softmax(-1).tolist() == [[1, 0, 0, 0]]
    assert warp(torch.zeros(1, 4), Cut(temperature=0)).argmax() == 0, "greedy ties go to the lowest id"
    assert torch.equal(logits, copy)
    assert torch.allclose(warp(logits, Cut(temperature=2.0)), logits / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((-1,), "guidance must be at least 0"),
        ((2, -0.1), "temperature"),
        ((2, float("nan")), "temperature"),
        (("1..2:wobbly",), "guidance must be NUMBER, .*linear, cosine, steps.*'1..2:wobbly'"),
        (("2:linear",), "FROM..TO:CURVE"),
        (("1..2:cosine:-1",), "power at least 0"),
        ((2, "1..-1"), "temperature must be at least 0"),
        ((2, 1, 0, 0), "top_p"),
        ((2, 1, 0, "0.9..1.1"), "top_p must be from 0 to 1"),
        ((2, 1, 0, 1, 2), "min_p must be from 0 to 1"),
        ((2, 1, 0, 1, 0, (0.9, 0.1)), "two rising shares"),
    ],
)
def test_numbers_without_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        target(TOKEN, *options)


# ------------------------------------------------------------------------------------------------------------- sampler


def options_for(sampler: str, toy):
    """Options of a sampler for a toy; None where they do not fit one another."""
    module = find("sampling", sampler)
    options = module.Options(**({"pick": "random"} if sampler == "masked" and not toy.spec.vocab else {}))
    try:
        getattr(module, "check", lambda *_: None)(toy, options)
    except ValueError:
        return None
    return options if getattr(module, "fits", lambda _: True)(toy) else None


FITTING = [(sampler, unit) for sampler in choices("sampling") for unit in TOYS if options_for(sampler, TOYS[unit])]


@pytest.mark.parametrize(("sampler", "unit"), FITTING)
@pytest.mark.parametrize(("guidance", "temperature"), [(1.0, 0.0), (2.5, 1.0)])
def test_image_i_is_the_same_in_any_batch_and_order(sampler, unit, guidance, temperature):
    discrete = bool(TOYS[unit].spec.vocab)
    law = target(TOYS[unit], f"1..{guidance}", temperature, 8 if discrete else 0, 0.95 if discrete else 1)
    law = Aided(law, None, torch.randn(11, 4, generator=torch.Generator().manual_seed(0)))
    images, cond, module = torch.arange(16), torch.arange(16) % 6, find("sampling", sampler)
    options = options_for(sampler, TOYS[unit])

    def draw(index: torch.Tensor) -> torch.Tensor:
        return module.sample(law, cond[index], Noise(5), images[index], Trace(), options)

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        return torch.equal(a, b) if discrete else torch.allclose(a, b, rtol=1e-6, atol=1e-6)

    together = draw(images)
    for size in (1, 5):
        assert same(torch.cat([draw(part) for part in images.split(size)]), together)
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert same(draw(shuffled), together[shuffled])
    if temperature:
        assert len(together.unique(dim=0)) > 8, "the control: different images differ"


def test_the_sampler_follows_the_models_law():
    """Exact law of a 2-code, 3-token model against 20,000 draws, pooled over classes of one label."""
    from pointillist import CodeSpec
    from pointillist.models.units import token

    spec = CodeSpec(grids=((1, 2),), vocab=(3,), channels=1)
    toy = toy_generator(token.plan(spec, token.Options()), spec)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    with torch.no_grad():
        law = toy(pairs, torch.full((9,), 1)).log_softmax(-1).gather(-1, pairs[..., None]).sum((1, 2)).exp()
    images = torch.arange(20_000)
    codes = ancestral.sample(toy, torch.full((20_000,), 1), Noise(0), images, Trace(), ancestral.Options())
    counts = torch.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9)
    assert stats.chisquare(counts.numpy(), (law * 20_000).numpy()).pvalue > 1e-6
    assert stats.chisquare(counts.numpy(), (law.flip(0) * 20_000).numpy()).pvalue < 1e-6, "the control: another law"


def test_trace_counts_a_guided_pass_once():
    trace = Trace()
    law = target(TOKEN, 2)
    ancestral.sample(law, torch.zeros(3, dtype=torch.long), Noise(0), torch.arange(3), trace, ancestral.Options())
    summary = trace.summary()
    assert (summary["nfe_per_image"], summary["streams"], summary["passes"]) == (16, 2, 16)
    assert summary["tokens_fed"] == 2 * 3 * 16 and summary["committed"] == {"1": 48}
    assert Trace.restore(summary) == trace


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"classes must lie in 0\.\.4"):
        toy_generator(TOKEN.plan, GRID).start(torch.tensor([6]), torch.tensor([0]), Noise(0))


# -------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_balanced_shuffled_and_do_not_depend_on_the_count():
    names = [f"c{i}" for i in range(10)]
    counts = [i + 1 for i in range(10)]
    labels = labels_of("balanced", 1000, names, counts, Noise(0))
    assert torch.bincount(labels).tolist() == [100] * 10
    assert (labels.diff() == 0).double().mean() < 0.2, "never sorted by class"
    assert torch.equal(labels_of("balanced", 137, names, counts, Noise(0)), labels[:137])
    assert 60 < torch.bincount(labels_of("random", 1000, names, counts, Noise(0))).min() < 100
    drawn = torch.bincount(labels_of("proportional", 5500, names, counts, Noise(0)))
    assert stats.chisquare(drawn.numpy(), [100 * c for c in counts]).pvalue > 1e-6
    assert labels_of("c3,7", 50, names, counts, Noise(0)).unique().tolist() == [3, 7]


def test_an_unknown_class_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="no class 'cat'; classes are 0 dog, 1 fox"):
        labels_of("dog,cat", 4, ["dog", "fox"], [1, 1], Noise(0))
