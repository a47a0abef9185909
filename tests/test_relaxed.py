"""Relaxed rules: the numbers of the published code, the law that comes out, and what the meter says of it.

tests/golden/filters_and_acceptance was recorded from the released SJD and LANTERN code.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pointillist.models.dist import Cut, warp
from pointillist.sampling import relaxed
from pointillist.sampling.coupling import acceptance, emitted, of, residual, total_variation
from pointillist.sampling.drafts import without
from pointillist.sampling.laws import Aided
from pointillist.sampling.rules import cool, gsd, lantern

GOLDEN = Path(__file__).parent / "golden" / "filters_and_acceptance"
CASES = load_file(GOLDEN / "cases.safetensors")
CODEBOOK = load_file(GOLDEN / "weights.safetensors")["quantize.embedding.weight"]
NEAREST = Aided(None, None, CODEBOOK).nearest


def case(name: str) -> torch.Tensor:
    value = CASES[name]
    return value.double() if value.is_floating_point() else value


def laws(vocab: int = 32, rows: int = 6, sharp: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    p, q = (torch.randn(rows, vocab, generator=random, dtype=torch.float64).mul(sharp).softmax(-1) for _ in range(2))
    return p, (0.5 * p + 0.5 * q)


def every(q: torch.Tensor) -> torch.Tensor:
    return torch.arange(q.shape[1]).expand_as(q)


def index_of(q: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(q), dtype=torch.long)


# -------------------------------------------------------------------------------------------------- the published code


def test_the_table_of_nearest_codes():
    assert torch.equal(NEAREST, case("lantern.neighbours"))
    unit = Aided(None, None, torch.nn.functional.normalize(CODEBOOK, dim=-1)).nearest
    assert torch.equal(unit, case("lantern.neighbours_of_normalised_codebook"))
    assert not torch.equal(unit, NEAREST), "the control: which vectors are compared matters"


@pytest.mark.parametrize("i", range(42))
def test_lantern_accepts_and_replaces_as_published(i):
    p, q = case("lantern.target_logits")[i : i + 1].softmax(-1), case("lantern.draft_prob")[i : i + 1]
    x, certain = case("lantern.draft_token")[i : i + 1], torch.zeros_like(q)
    certain[0, x] = 1  # the dynamic tree's drafts are not random
    numbers = {"k": int(case("lantern.k")[i]), "delta": float(case("lantern.delta")[i])}
    mass, members = lantern.view(lantern.Options(**numbers), NEAREST, p, x[:, None])
    assert int(members) == int(case("lantern.num_aggregated")[i])
    near(mass[0, 0], case("lantern.relaxed_target_prob")[i])
    near(mass[0, 0] / q[0, x[0]], case("lantern.accept_prob_v1")[i])
    for name, law in (("v1", q), ("v2", certain)):
        accepted = lantern.acceptance(lantern.Options(**numbers), NEAREST, p, law, x[:, None], index_of(q))
        near(accepted[0, 0], case(f"lantern.accept_prob_{name}")[i].clamp_max(1))
    for kind, law, name in (("llamagen", q, "v1_llamagen"), ("lumina", q, "v1_lumina"), ("lumina", certain, "v2")):
        options = lantern.Options(**numbers, residual=kind)
        near(lantern.replacement(options, NEAREST, p, law, x)[0], case(f"lantern.residual_{name}")[i])
    near(residual(p, q)[0], case("lantern.residual_plain")[i])


def near(ours: torch.Tensor, recorded: torch.Tensor) -> None:
    assert (ours - recorded).abs().max() < 1e-5


@pytest.mark.parametrize("numbers", [None, (5, 0.2, "lantern_k5_d02"), (5, 3.0, "lantern_k5_d3")])
@pytest.mark.parametrize(("kind", "suffix"), [("llamagen", ""), ("lumina", "_lumina")])
def test_siblings_of_a_tree_are_tried_as_published(numbers, kind, suffix):
    k, delta, name = numbers or (0, 0.0, "plain")
    options = lantern.Options(k=k, delta=delta, residual=kind)
    p, q = case("lantern_tree.target_logits")[:, 0].softmax(-1), case("lantern_tree.draft_prob")
    for j, x in enumerate(case("lantern_tree.siblings").T):
        mass = lantern.view(options, NEAREST, p, x[:, None])[0][:, 0]
        if kind == "llamagen":  # the numbers are of this file
            near(mass / of(q, x), case(f"lantern_tree.{name}.accept_prob")[:, j])
        p, q = lantern.replacement(options, NEAREST, p, q, x), without(q, x)
    near(p, case(f"lantern_tree.{name}.final_residual{suffix}"))


def test_speculative_jacobi_accepts_and_replaces_as_published():
    """Window entry i is a draft of the law that entry i - 1 advanced to; the first one rejected ends the pass."""
    q, p, x = case("sjd.draft_prob")[:, 1:], case("sjd.advanced_prob")[:, :-1], case("sjd.draft_tokens")[:, 1:]
    accept = of(acceptance(p, q), x)
    near(accept, case("sjd.accept_prob")[:, 1:])
    stays = case("sjd.uniform")[:, 1:] < accept
    first = 1 + stays.long().cumprod(1).sum(1)
    assert torch.equal(first, case("sjd.first_misaligned"))
    for row in range(len(q)):
        if case("sjd.rejected")[row]:
            near(residual(p, q)[row, first[row] - 1], case("sjd.residual")[row])


def test_the_published_code_warps_the_residual_a_second_time():
    """Its own residual is not norm([p - q]+) where top-p is on; ours is, and warped again it is theirs."""
    q, p = (warp(x, Cut(top_k=10, top_p=0.9)).softmax(-1) for x in case("sjd_filtered.logits"))
    first, rows = case("sjd_filtered.first_misaligned"), case("sjd_filtered.rejected") == 1
    near(q, case("sjd_filtered.draft_prob"))
    near(p, case("sjd_filtered.advanced_prob"))
    at = torch.arange(len(first)), (first - 1).clamp_max(q.shape[1] - 2)
    ours = residual(p[:, :-1], q[:, 1:])[at][rows]
    near(ours, case("sjd_filtered.residual_plain")[rows])
    theirs = case("sjd_filtered.residual_reference")[rows]
    assert total_variation(ours, theirs).max() > 0.01
    near(warp(ours.log(), Cut(top_k=10, top_p=0.9)).softmax(-1), theirs)


# ------------------------------------------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("kind", ["optimal", "paper", "llamagen", "lumina"])
def test_the_law_that_comes_out_is_what_drafting_and_replacing_gives(kind):
    """Against a sum over every draft, one at a time."""
    p, q = laws()
    options = lantern.Options(k=4, delta=0.2, residual=kind)
    f = lantern.acceptance(options, NEAREST, p, q, every(q), index_of(q))
    expected = torch.zeros_like(p)
    for row in range(len(p)):
        for x in range(p.shape[1]):
            draft = torch.tensor([x])
            other = residual(p[row], q[row] * f[row])
            if kind != "optimal":
                other = lantern.replacement(options, NEAREST, p[row : row + 1], q[row : row + 1], draft)[0]
            expected[row, x] += q[row, x] * f[row, x]
            expected[row] += q[row, x] * (1 - f[row, x]) * other
    if kind == "optimal":
        ours = emitted(q, f, residual(p, q * f))
    else:
        ours = relaxed._emitted(p, q, f, lambda *args: lantern.replacement(options, NEAREST, *args))
    assert (ours - expected).abs().max() < 1e-14
    assert (ours.sum(-1) - 1).abs().max() < 1e-12


def test_the_best_residual_makes_any_cautious_rule_lossless():
    """A rule that nowhere accepts more than mrs spends nothing with it, and does with mrs's own residual; for a rule
    that nowhere accepts less the two are the same."""
    p, q = laws()
    cautious = 0.3 * acceptance(p, q)
    assert total_variation(p, emitted(q, cautious, residual(p, q * cautious))).max() < 1e-14
    assert total_variation(p, emitted(q, cautious, residual(p, q))).min() > 0.05
    bold = cool.acceptance(cool.Options(delta=1.3), p, q, every(q), index_of(q))
    assert (residual(p, q * bold) - residual(p, q)).abs().max() < 1e-14
    assert total_variation(p, emitted(q, bold, residual(p, q * bold))).min() > 0.01


def test_no_relaxation_is_modified_rejection():
    p, q = laws()
    none = [
        lantern.acceptance(lantern.Options(delta=0), NEAREST, p, q, every(q), index_of(q)),
        lantern.acceptance(lantern.Options(k=0), NEAREST, p, q, every(q), index_of(q)),
        gsd.acceptance(gsd.Options(ranks=0), CODEBOOK.double(), p, q, every(q), index_of(q)),
        cool.acceptance(cool.Options(delta=1), p, q, every(q), index_of(q)),
    ]
    for f in none:
        assert (f - acceptance(p, q)).abs().max() < 1e-15
        assert total_variation(p, emitted(q, f, residual(p, q * f))).max() < 1e-15


@pytest.mark.parametrize("delta", [0.05, 0.2, 3.0])
def test_lantern_bounds_each_drafts_view_of_the_target(delta):
    """p' is p with the mass of A(x) moved to x: within delta of p, or within (delta - 1) p(x)."""
    p, _ = laws()
    options = lantern.Options(k=31, delta=delta)
    own = p.gather(1, every(p))
    moved = lantern.view(options, NEAREST, p, every(p))[0] - own
    bound = torch.full_like(own, delta) if delta <= 1 else (delta - 1) * own
    assert (moved <= bound).all() and (moved > 0.2 * bound).any()


def test_lanterns_delta_does_not_bound_the_sampler():
    """p uniform on 128 codes, q on every second one, whose neighbour has the other half of p's mass: with delta 1/64
    every draft is accepted, so the sampler's law is q, half of the mass away."""
    p = torch.full((1, 128), 1 / 128, dtype=torch.float64)
    q = torch.where(torch.arange(128) % 2 == 0, 1 / 64, 0.0).double()[None]
    nearest = (torch.arange(128) ^ 1)[:, None]
    f = lantern.acceptance(lantern.Options(k=1, delta=1 / 64), nearest, p, q, every(q), index_of(q))
    assert (f[q > 0] == 1).all()
    assert float(total_variation(p, emitted(q, f, residual(p, q * f)))) == pytest.approx(0.5)


def test_gsd_pools_codes_near_in_rank_probability_and_vector():
    p, q = laws()
    options, vectors = gsd.Options(ranks=6, gap=0.05, distance=8.0), CODEBOOK.double()
    f = gsd.acceptance(options, vectors, p, q, every(q), index_of(q))
    pooled = 0
    for row in range(len(p)):
        order = p[row].argsort(descending=True).tolist()
        for x in range(p.shape[1]):
            rank = order.index(x)
            group = [
                y
                for y in order[max(rank - 3, 0) : rank + 4]
                if abs(p[row, y] - p[row, x]) < 0.05 and (vectors[y] - vectors[x]).square().sum() < 8
            ]
            pooled += len(group) > 1
            assert f[row, x] == pytest.approx(min(1.0, float(p[row, group].sum() / q[row, group].sum())))
    assert pooled > 50, "the groups are not all of one code"


def test_cool_relaxes_less_along_the_window_and_never_below_modified_rejection():
    p, q = laws()
    at = [cool.acceptance(cool.Options(delta=2, nu=0.7), p, q, every(q), torch.full((len(p),), i)) for i in range(4)]
    assert all((a >= b - 1e-15).all() for a, b in pairwise(at)) and (at[0] > at[1] + 0.01).any()
    assert (at[0] - (2 * p / q).clamp_max(1)).abs().max() < 1e-12
    assert torch.equal(at[3], acceptance(p, q)), "2 exp(-2.1) is below 1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lantern.Options(k=1001), "k must lie in 0..1000"),
        (lambda: lantern.Options(delta=-1), "delta be at least 0"),
        (lambda: gsd.Options(gap=-1), "at least 0"),
        (lambda: cool.Options(delta=0.5), "delta must be at least 1"),
        (lambda: Aided(None).vectors, "no single codebook"),
    ],
)
def test_numbers_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
