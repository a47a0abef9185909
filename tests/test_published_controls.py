"""Controls of tests/systems: natural mistakes, each of which the recorded numbers show."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pointillist.models.dist import Cut, warp
from pointillist.sampling.laws import Ordered, target
from tests.golden_files import recorded
from tests.replay import greedy
from tests.systems import llamagen, npp, par, randar

GOLDEN = Path(__file__).parent / "golden"


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.detach() - theirs).abs().max())


@pytest.mark.parametrize("system", llamagen.SYSTEMS)
def test_the_identity_rotation_for_the_condition_is_a_different_model(system):
    """cos = 1 for the class token, the natural mistake, changes every logit."""
    golden = recorded(GOLDEN / system)
    generator = llamagen.model.__wrapped__(golden)
    codes, labels = golden["forward.input_codes"], golden["forward.labels"]
    assert apart(generator(codes, labels), golden["forward.logits"]) < 1e-4
    generator.layout._rope[labels.device][-1, :, 0] = 1.0
    assert apart(generator(codes, labels), golden["forward.logits"]) > 0.05


@pytest.mark.parametrize("change", ["gate and value", "rows of queries", "row and column"])
def test_a_wrong_key_map_has_the_right_shapes(change):
    golden = recorded(GOLDEN / "llamagen_c2i")
    generator = llamagen.model.__wrapped__(golden)
    attention, ffn = generator.transformer.blocks[0].attention, generator.transformer.blocks[0].ffn
    codes, labels = golden["forward.input_codes"], golden["forward.labels"]
    generator(codes, labels)
    with torch.no_grad():
        if change == "gate and value":
            ffn.w13.weight.copy_(torch.cat(ffn.w13.weight.chunk(2)[::-1]))
        elif change == "rows of queries":  # half-split pairs instead of adjacent ones
            heads = attention.qkv.weight[:64].unflatten(0, (4, 2, 8))
            attention.qkv.weight[:64] = heads.transpose(1, 2).flatten(0, 2)
        else:
            table = generator.layout._rope[labels.device]
            table.copy_(torch.cat(table.chunk(2, dim=1)[::-1], dim=1))
    assert apart(generator(codes, labels), golden["forward.logits"]) > 0.05


@pytest.mark.parametrize("module", [llamagen, par])
@pytest.mark.parametrize("of", range(2))
def test_guidance_changes_the_codes(module, of):
    golden = recorded(GOLDEN / module.SYSTEMS[of])
    guided = next(case for case in golden.cases if case.endswith(("cfg4.tokens", "cfg4.tokens_raster")))
    assert not torch.equal(golden[guided], golden[guided.replace("cfg4", "nocfg")])


def test_the_last_guided_code_is_the_recorded_one():
    """One code fewer or more guided, and other logits follow."""
    golden = recorded(GOLDEN / "llamagen_c2i")
    generator, labels = llamagen.model(golden), golden["gen.labels"]
    for last in (4, 6):
        law = target(generator, 4.0, guidance_interval=(0, (last - 0.5) / 16))
        assert apart(greedy(law, labels).logits, golden["gen_cfg4_int3.logits"]) > 0.05
    law = target(generator, 4.0, guidance_interval=(0, 4.5 / 16))
    assert apart(greedy(law, labels).logits, golden["gen_cfg4_int3.logits"]) < 1e-4


def test_constant_guidance_is_not_growing_guidance():
    golden = recorded(GOLDEN / "randar")
    law = Ordered(target(randar.model(golden), 4.0), golden["gen.token_order"])
    found = greedy(law, golden["gen.labels"])
    assert not torch.equal(found.codes, golden["gen_seq_cfg1to4.tokens_raster"])
    assert apart(found.logits, golden["gen_seq_cfg1to4.logits"]) > 0.05


def test_par_guides_again_when_its_parallel_passes_begin():
    """The published sampler's second count: an interval of codes that ends once draws other codes."""
    golden = recorded(GOLDEN / "par")
    regions = par.model(golden).unit.regions
    once = greedy(target(par.model(golden), 4.0), golden["gen.labels"], lambda done: done <= 2)
    again = par.generated(golden, "gen_cfg4_int1")
    assert [done for done in range(16) if par.guided_there(regions, 1, done)] == [0, 1, 2, 4, 5]
    assert not torch.equal(once.codes, again.codes)
    same = par.order(golden)[:4]
    assert torch.equal(once.codes[:, same], again.codes[:, same])


def test_positions_of_patches_are_their_own():
    """Rows and columns counted in codes, p times those of the patches, are another model."""
    golden = recorded(GOLDEN / "npp")
    generator = npp.model.__wrapped__(golden)
    layout = generator.stages[-1]
    codes, labels = golden["forward.input_codes"], golden["forward.labels"]
    layout.plan.grid.mul_(2)
    logits = generator.head(generator.hidden(codes, labels, layout=layout))[:, layout.predicts[:, 0]]
    assert apart(logits, golden["forward.p2.logits"]) > 0.05


def test_top_k_that_drops_ties_gives_other_probabilities():
    golden = recorded(GOLDEN / "llamagen_c2i")
    logits, told = golden["filter.logits"], golden.meta["filters"]["t09_k10"]
    ours = warp(logits, Cut(told["temperature"], told["top_k"])).softmax(-1)
    kept = logits.topk(told["top_k"])
    without = torch.full_like(logits, float("-inf")).scatter(1, kept.indices, kept.values / told["temperature"])
    assert apart(ours, golden["filter.t09_k10.probs"]) < 1e-6
    assert apart(without.softmax(-1), golden["filter.t09_k10.probs"]) > 1e-3
