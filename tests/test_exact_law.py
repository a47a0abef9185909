"""The exact law of speculative samplers, by following every outcome of every draw (tests/branching.py).

test_published_bugs.py is the control: the same question to samplers that are wrong.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from pointillist import CodeSpec
from pointillist.models.eagle import Eagle
from pointillist.models.eagle import Options as EagleOptions
from pointillist.sampling import ancestral
from pointillist.sampling.laws import Aided, Inpaint, target
from pointillist.sampling.rules import cool, exact, gsd, lantern, mrs
from tests.branching import distance, draw, error, exact_law, options, sampled_law
from tests.tables import Table, line
from tests.toys import toy

SQUARE = CodeSpec(((2, 2),), (2,), 1)
SAME, WRONG = 1e-12, 1e-4
COUPLINGS, INITS = ("redraw", "maximal", "gumbel"), ("random", "left", "above", "resample")
MRS, EXACT = mrs.Options(), exact.Options()


# ---------------------------------------------------------------------------------------------------------- the double


def test_the_double_follows_noise_that_is_used_twice():
    """Two races on one key are one uniform number's: both are 1 with the smaller of their probabilities."""

    def twice(law, cond, noise, images, key=0):
        law.query(law.start(cond, images, noise), torch.zeros(len(images), 1, 2, dtype=torch.long))
        slots = torch.tensor([0, key])[None].expand(len(images), -1)
        laws = torch.tensor([[0.7, 0.3], [0.4, 0.6]]).double().expand(len(images), -1, -1)
        return noise.race("code", laws.log(), images, slots)

    table = Table("token", line(2))
    assert np.allclose(sampled_law(twice, table), [0.4, 0.0, 0.3, 0.3])  # 00, 10, 01, 11
    apart = sampled_law(partial(twice, key=1), table)
    assert np.allclose(apart, [0.28, 0.12, 0.42, 0.18])


def test_the_double_refuses_a_key_that_meets_two_laws():
    def twice(law, cond, noise, images):
        slots = torch.zeros(len(images), 2, dtype=torch.long)
        return noise.race("draft", torch.randn(len(images), 2, 3), images, slots)

    table = Table("token", line(2, 3))
    with pytest.raises(AssertionError, match="one key, two laws"):
        sampled_law(twice, table)


def test_the_enumerated_law_is_a_law_and_ancestral_sampling_has_it():
    for table in (Table("token", line(4)), Table("token", line(3, 3)), Table("line", SQUARE)):
        law = exact_law(table)
        assert abs(law.sum() - 1) < SAME and distance(law, exact_law(table, cond=1)) > 0.1
        assert error(ancestral.Options(), table) < SAME


# ------------------------------------------------------------------------------------------------------------ the laws


@pytest.mark.parametrize("window", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("rule", [EXACT, MRS], ids=lambda rule: rule.name)
def test_rules_couplings_windows_and_first_guesses(rule, coupling, window):
    table = Table("token", SQUARE)
    for init in INITS:
        assert error(options(rule, coupling, window, init=init), table) < SAME, init


@pytest.mark.parametrize("coupling", [*COUPLINGS, "model"])
def test_deeper_windows(coupling):
    """Five codes and windows of four, where a guess is carried over more than once."""
    table = Table("token", line(5), spread=2.0)
    law = Aided(table, Table("token", line(5), seed=1)) if coupling == "model" else table
    for window in (3, 4):
        assert error(options(MRS, coupling, window), law) < SAME


CUTS = {
    "top-k: holes in the support": {"top_k": 2},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.3},
    "temperature": {"temperature": 0.5},
    "guidance": {"guidance": 3},
    "all at once": {"guidance": 2, "temperature": 0.7, "top_k": 2, "top_p": 0.9},
    "schedules": {"guidance": "1..3", "temperature": "1.5..0.5:cosine", "top_k": "3..1", "top_p": "1..0.6:steps"},
    "guidance in an interval": {"guidance": 3, "guidance_interval": (0.3, 0.7)},
}


@pytest.mark.parametrize("name", CUTS)
def test_guidance_warps_and_schedules(name):
    three, two = Table("token", line(4, 3)), Table("token", SQUARE)
    for coupling, init in (("redraw", "resample"), ("maximal", "left")):
        assert error(options(MRS, coupling, 2, init=init), target(three, **CUTS[name])) < SAME
    for rule in (MRS, EXACT):
        assert error(options(rule, "gumbel"), target(two, **CUTS[name])) < SAME
    assert distance(exact_law(three), exact_law(target(three, **CUTS[name]))) > 0.05


@pytest.mark.parametrize("rule", [EXACT, MRS], ids=lambda rule: rule.name)
@pytest.mark.parametrize(
    ("unit", "size", "more"),
    [
        ("line", (3, 2), {}),
        ("line", (2, 3), {"columns": True}),
        ("par", (2, 2), {"regions": 1}),
        ("par", (2, 4), {"regions": 4}),
        ("token", (2, 2), {"order": "spiral_in"}),
        ("token", (1, 4), {"order": "random"}),
    ],
)
def test_groups_and_orders(unit, size, more, rule):
    table = Table(unit, CodeSpec((size,), (2,), 1), **more)
    for coupling, init in (("redraw", "random"), ("maximal", "above"), ("gumbel", "left")):
        if coupling == "gumbel" or rule is MRS:
            assert error(options(rule, coupling, 2, init=init), table) < SAME, coupling


@pytest.mark.parametrize("ways", [2, 3])
@pytest.mark.parametrize("coupling", [*COUPLINGS, "model"])
def test_trees(coupling, ways):
    """Two tokens cannot have three ways: what is drawn where nothing is left must not matter."""
    table = Table("token", SQUARE)
    for law in (table, target(table, top_p=0.8)):
        law = Aided(law, Table("token", SQUARE, seed=1)) if coupling == "model" else law
        for rule in (MRS, EXACT):
            assert error(options(rule, coupling, 2, ways), law) < SAME
    if coupling in ("redraw", "maximal"):
        assert error(options(MRS, coupling, 2, ways), target(Table("token", line(3, 3)), top_k=2)) < SAME
        assert error(options(MRS, coupling, 1, ways), Table("token", line(3, 4))) < SAME


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("rule", [EXACT, MRS], ids=lambda rule: rule.name)
def test_a_second_model_drafts(rule, ways):
    table, other = Table("token", SQUARE), Table("token", SQUARE, seed=1)
    for draft in (other, table, target(other, temperature=0)):
        for law in (table, target(table, guidance=2, top_p=0.8)):
            for window in (1, 2, 6):
                assert error(options(rule, "model", window, ways), Aided(law, draft)) < SAME


@pytest.mark.parametrize(
    "rule", [cool.Options(delta=1), lantern.Options(k=0), lantern.Options(k=2, delta=0), gsd.Options(ranks=0)], ids=str
)
def test_relaxed_rules_with_nothing_to_spend_are_exact(rule):
    for coupling in ("redraw", "maximal"):
        law = Aided(Table("token", line(4, 3)), codebook=torch.eye(3))
        assert error(options(rule, coupling, 2), law) < SAME


@pytest.mark.parametrize("rule", [cool.Options(), lantern.Options(k=2, delta=0.5), gsd.Options(gap=1, distance=3)])
def test_relaxed_rules_are_not(rule):
    assert error(options(rule, "redraw", 2), Aided(Table("token", line(4, 3)), codebook=torch.eye(3))) > WRONG


@pytest.mark.parametrize("ways", [1, 2])
def test_a_draft_head_over_a_real_generator(ways):
    """EAGLE drafts from the target's features, through its own cache."""
    generator = toy("token", SQUARE)
    torch.manual_seed(3)
    head = Eagle(EagleOptions(), generator).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 1.0)
    for numbers in ({}, {"guidance": 2, "top_p": 0.9}):
        law = Aided(target(generator, **numbers), target(head, **numbers))
        for rule, window in ((MRS, 2), (EXACT, 2), (EXACT, 0)):
            assert error(options(rule, "model", window, ways), law) < SAME


def test_known_codes_stay_and_the_others_have_their_law_given_them():
    codes, known = torch.tensor([[1, 0, 1, 0]]), torch.tensor([[True, True, False, False]])
    law = Inpaint(Table("token", SQUARE), codes, known)
    assert (exact_law(law) > 0).sum() == 4
    for rule, coupling in ((EXACT, "gumbel"), (MRS, "maximal"), (MRS, "redraw")):
        assert error(options(rule, coupling, 2), law) < SAME


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("rule", [EXACT, MRS], ids=lambda rule: rule.name)
def test_two_images_of_one_batch_are_independent(rule, coupling):
    """Their classes differ, and so do their paces; each has its own law and the joint law is the product."""
    table = Table("token", line(3))
    joint = sampled_law(partial(draw, options(rule, coupling, 2)), table, (0, 1))
    assert distance(joint, np.multiply.outer(exact_law(table), exact_law(table, cond=1))) < SAME


REAL = {
    "token": ("token", SQUARE, {}),
    "line": ("line", CodeSpec(((3, 2),), (2,), 1), {}),
    "randar": ("randar", line(4), {}),
    "two books": ("token", CodeSpec(((1, 3),), (2, 2), 1), {}),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_generator_with_guidance(name):
    """Through transformers and caches; top-p cuts holes."""
    unit, spec, more = REAL[name]
    law = target(toy(unit, spec, **more), guidance=2, temperature=1.5, top_p=0.9)
    for rule, coupling, ways in ((EXACT, "gumbel", 1), (MRS, "maximal", 1), (MRS, "redraw", 2), (EXACT, "gumbel", 2)):
        if ways == 1 or (unit in ("token", "randar") and len(spec.vocab) == 1):
            assert error(options(rule, coupling, 2, ways), law) < SAME, (coupling, ways)
