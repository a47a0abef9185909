"""The house transformer against numbers recorded from the published LlamaGen, PAR, RandAR and NPP code."""

from __future__ import annotations

import json
from math import isqrt
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pointillist import CodeSpec
from pointillist.models.dist import Cut, warp
from pointillist.models.generator import Generator, Options
from pointillist.models.orders import pass_sizes
from pointillist.models.units import par, patch, randar, token
from pointillist.sampling import ancestral
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace

GOLDEN = Path(__file__).parent / "golden"
LLAMAGEN, PAR = ("llamagen_c2i", "llamagen_c2i_gqa"), ("par", "par_ar16")
RENAMED = {
    "cls_embedding.embedding_table": "class_embedding",
    "spe_tok_embeddings.special_embeddings": "learned",
    "tok_embeddings": "code_embedding",
    "layers.": "transformer.blocks.",
    "attention.wqkv": "attention.qkv",
    "attention.wo": "attention.out",
    "feed_forward": "ffn",
    "output": "head",
}


class InGivenOrders(randar.Generator):
    """Recorded generations come with their orders."""

    given: torch.Tensor

    def order(self, images: torch.Tensor, noise: Noise) -> torch.Tensor:
        return self.given[images]


def load(system: str, passes: int = 0) -> tuple[Generator, dict, dict]:
    """Published weights in the house transformer, the recorded cases, and what the reference was built with."""
    folder = GOLDEN / system
    meta = json.loads((folder / "meta.json").read_text())
    arguments, cases = meta["constructor_arguments"], load_file(folder / "cases.safetensors")
    side = isqrt(arguments["block_size"])
    spec = CodeSpec(grids=((side, side),), vocab=(arguments["vocab_size"],), channels=8)
    if system in PAR:
        plan = par.plan(spec, par.Options(regions=arguments["ar_token_num"]))
        assert torch.equal(plan.predicts[:, 0], cases["order"])
    else:
        plan = (randar if system == "randar" else token).plan(spec, token.Options())
    options = Options(
        dim=arguments["dim"],
        depth=arguments["n_layer"],
        num_heads=arguments["n_head"],
        num_kv_heads=arguments.get("n_kv_head"),
    )
    unit = patch.Options(sides=[4, 2]) if system == "npp" else randar.Options(passes=passes)
    kind = {"randar": InGivenOrders, "npp": patch.Generator}.get(system, Generator)
    generator = kind(options, spec, plan, arguments["num_classes"], unit)
    generator.load_state_dict(renamed(load_file(folder / "weights.safetensors")))
    return generator.eval(), cases, meta


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {}
    for key, value in weights.items():
        for theirs, name in RENAMED.items():
            key = key.replace(theirs, name)
        ours[key.replace("pos_instruct_embeddings", "learned.weight")] = value
    for key in [k for k in ours if k.endswith("ffn.w1.weight")]:
        w3 = ours.pop(key.replace("w1", "w3"))
        ours[key.replace("w1", "w13")] = torch.cat([ours.pop(key), w3])
    ours["transformer.norm.weight"] = ours.pop("norm.weight")
    return ours


def teacher(system: str, cases: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Codes by slot, labels and per-image orders of the forward case."""
    name = "forward.input_codes" if system in LLAMAGEN else "forward.raster_codes"
    return cases[name], cases["forward.labels"], cases.get("forward.token_order")


def in_step_order(logits: torch.Tensor, cases: dict) -> torch.Tensor:
    """Logits as they are recorded: by step, not by slot."""
    order = cases.get("forward.token_order", cases.get("order"))
    return logits if order is None else torch.take_along_dim(logits, order.expand(len(logits), -1)[..., None], dim=1)


@pytest.mark.parametrize("system", [*LLAMAGEN, *PAR, "randar"])
def test_teacher_forced_logits_loss_and_gradients(system):
    generator, cases, meta = load(system)
    codes, labels, order = teacher(system, cases)
    assert (in_step_order(generator(codes, labels, order), cases) - cases["forward.logits"]).abs().max() < 1e-4
    null = generator(codes, generator.null(labels), order)
    assert (in_step_order(null, cases) - cases["forward_null.logits"]).abs().max() < 1e-4
    loss = generator.loss(codes, labels, order)["loss"]
    assert loss.item() == pytest.approx(cases["train.loss"].item(), rel=1e-6)
    loss.backward()
    norms = dict(zip(meta["grad_param_order"], cases["train.grad_norms"].tolist(), strict=True))
    for theirs, ours in (("output.weight", generator.head), ("tok_embeddings.weight", generator.code_embedding)):
        assert ours.weight.grad.norm().item() == pytest.approx(norms[theirs], rel=1e-4)
    assert generator.class_embedding.weight.grad.norm().item() == pytest.approx(
        norms["cls_embedding.embedding_table.weight"], rel=1e-4
    )
    w13 = generator.transformer.blocks[0].ffn.w13.weight.grad
    for part, name in zip(w13.chunk(2), ("w1", "w3"), strict=True):
        assert part.norm().item() == pytest.approx(norms[f"layers.0.feed_forward.{name}.weight"], rel=1e-4)


@pytest.mark.parametrize("system", LLAMAGEN)
def test_the_identity_rotation_for_the_condition_is_a_different_model(system):
    """Control: cos = 1 for the class token, the natural mistake, changes every logit."""
    generator, cases, _ = load(system)
    codes, labels, _ = teacher(system, cases)
    generator.layout.rope(generator.layout.at)
    generator.layout._rope[labels.device][-1, :, 0] = 1.0
    assert (generator(codes, labels) - cases["forward.logits"]).abs().max() > 0.05


@pytest.mark.parametrize(("side", "progress"), [(4, 0.0), (4, 0.24), (2, 0.25), (2, 0.49), (1, 0.5), (1, 1.0)])
def test_next_patch_trains_as_published_in_every_stage(side, progress):
    """Logits, loss and gradients of patches of side 4, 2 and 1, each in its share of the training."""
    generator, cases, meta = load("npp")
    codes, labels = cases["forward.input_codes"], cases["forward.labels"]
    layout = {4: generator.stages[0], 2: generator.stages[1], 1: generator.layout}[side]
    first = layout.predicts[:, 0]  # a patch's codes share their logits
    logits = generator.head(generator.hidden(codes, labels, layout=layout))[:, first]
    assert (logits - cases[f"forward.p{side}.logits"]).abs().max() < 1e-4
    loss = generator.loss(codes, labels, progress=progress)["loss"]
    assert loss.item() == pytest.approx(cases[f"train.p{side}.loss"].item(), rel=1e-6)
    loss.backward()
    norms = dict(zip(meta["grad_param_order"], cases[f"train.p{side}.grad_norms"].tolist(), strict=True))
    assert generator.head.weight.grad.norm().item() == pytest.approx(norms["output.weight"], rel=1e-4)
    assert generator.code_embedding.weight.grad.norm().item() == pytest.approx(norms["tok_embeddings.weight"], rel=1e-4)


@pytest.mark.parametrize("schedule", range(5))
def test_next_patch_changes_stage_where_the_publication_does(schedule):
    """Recorded patch size of every epoch; the publication rounds a stage's end down to a whole epoch."""
    _, cases, meta = load("npp")
    told = meta["schedules"][schedule]
    sides = [round(size**0.5) for size in told["patch_sizes"][:-1]]
    stages = [*sides, 1]
    options = patch.Options(sides=sides, rate=told["epoch_rate"])
    ours = [stages[options.stage(epoch / told["epochs"])] ** 2 for epoch in range(told["epochs"])]
    theirs = cases[f"schedule.{schedule}.patch_size_per_epoch"].tolist()
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= len(sides)


def greedy(generator: Generator, labels: torch.Tensor, guidance: float, growing: bool = False) -> torch.Tensor:
    law = target(generator, f"1..{guidance}" if growing else guidance, temperature=0)
    images = torch.arange(len(labels))
    return ancestral.sample(law, labels, Noise(0), images, Trace(), ancestral.Options())


@pytest.mark.parametrize(
    ("system", "guided", "plain"),
    [
        ("llamagen_c2i", "gen_cfg4.tokens", "gen_nocfg.tokens"),
        ("llamagen_c2i_gqa", "naive_cfg4.tokens", "naive_nocfg.tokens"),
        ("par", "gen_cfg4.tokens_raster", "gen_nocfg.tokens_raster"),
        ("par_ar16", "gen_cfg4.tokens_raster", "gen_nocfg.tokens_raster"),
    ],
)
def test_greedy_guided_generation_token_by_token(system, guided, plain):
    generator, cases, _ = load(system)
    assert torch.equal(greedy(generator, cases["gen.labels"], 4.0), cases[guided])
    assert torch.equal(greedy(generator, cases["gen.labels"], 1.0), cases[plain])
    assert not torch.equal(cases[guided], cases[plain])


def test_randar_in_its_own_orders_one_code_a_pass_plain_and_with_growing_guidance():
    generator, cases, _ = load("randar")
    generator.given = cases["gen.token_order"]
    assert torch.equal(greedy(generator, cases["gen.labels"], 1.0), cases["gen_seq_nocfg.tokens_raster"])
    grown = greedy(generator, cases["gen.labels"], 4.0, True)
    assert torch.equal(grown, cases["gen_seq_cfg1to4.tokens_raster"])
    assert not torch.equal(greedy(generator, cases["gen.labels"], 4.0), grown), "the control: constant guidance"


@pytest.mark.parametrize(("case", "guidance", "growing"), [
    ("gen_par_nocfg", 1.0, False), ("gen_par_cfg1to4", 4.0, True), ("gen_par_cfg4", 4.0, False),
])  # fmt: skip
def test_randar_several_codes_a_pass(case, guidance, growing):
    generator, cases, _ = load("randar", passes=6)
    generator.given = cases["gen.token_order"]
    assert pass_sizes(generator.plan.num_codes, 6) == cases[f"{case}.steps"].tolist()
    assert torch.equal(greedy(generator, cases["gen.labels"], guidance, growing), cases[f"{case}.tokens_raster"])


def test_randar_pass_sizes_are_the_published_ones():
    cases = load("randar")[1]
    tables = [k for k in cases if k.startswith("schedule.")]
    assert tables
    for name in tables:
        length, passes = (int(x[5:]) for x in name.removeprefix("schedule.").split("_"))
        assert pass_sizes(length, passes) == cases[name].tolist()


@pytest.mark.parametrize("name", ["t09_k10", "p08", "k20_p09", "t07_k5_p05", "none"])
def test_temperature_top_k_and_top_p(name):
    generator, cases, meta = load("llamagen_c2i")
    del generator
    f = meta["filters"][name]
    ours = warp(cases["filter.logits"], Cut(f["temperature"], f["top_k"], f["top_p"])).softmax(-1)
    rows = [0, 1, 2, 3, 5] if f["top_p"] < 1 else list(range(6))  # row 4 is ties, whose order top-p leaves open
    assert (ours - cases[f"filter.{name}.probs"])[rows].abs().max() < 1e-5
