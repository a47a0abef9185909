"""Kinds of blocks: VAR's published ones to the key and the number, wrong ones caught, and what old runs rely on."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace

import pytest
import torch

from pointillist import CodeSpec, train
from pointillist.configs.options import build, load, to_dict
from pointillist.models import attention, blocks, eagle
from pointillist.models.generator import Generator, Options
from pointillist.models.units import scale
from pointillist.sampling.noise import Noise
from pointillist.tokenizers.vqvae import Lift
from pointillist.training import checkpoint
from pointillist.training.tasks import generator as training
from pointillist.zoo import var
from tests.golden_files import HERE, recorded
from tests.systems import var as checks
from tests.toys import COSINE, OF_VAR, PYRAMID, random_codes, toy, untrained

GOLDEN = HERE / "golden"  # the wrong variants below were measured on these
SIZES = ["d16", "d20", "d24", "d30", "d36"]
COND = torch.tensor([0, 3, 5])

# ------------------------------------------------------------------------------------------------------ full-size keys


def on_meta(spec: CodeSpec, options: dict) -> Generator:
    """A generator of any size, without its memory."""
    unit = scale.Options()
    plan = scale.plan(spec, unit)
    plan.mask, plan.starts, plan.place_of, plan.decoded_before, plan.num_codes, plan.num_learned  # noqa: B018 here
    with torch.device("meta"):
        return scale.Generator(Options(**options["model"]), spec, plan, 1000, unit, Lift(spec))


@pytest.mark.parametrize("size", SIZES)
def test_published_key_lists_load_strictly(size):
    told = json.loads((GOLDEN / "keys" / f"var_{size}_keys.json").read_text())
    (member,) = [m for m in var.MEMBERS if m.file == told["published_file"]]
    shapes = {k: v for k, v in told["keys"].items() if not any(re.fullmatch(p, k) for p in var.DROPPED)}
    assert set(told["keys"]) - set(shapes) == set(told["buffers"])
    assert sum(math.prod(shape) for shape in shapes.values()) == told["n_parameters"] == member.parameters
    assert member.spec.grids == tuple((side, side) for side in told["constructor"]["patch_nums"])
    model = on_meta(member.spec, member.options)
    ours = var.generator({k: torch.empty(shape, device="meta") for k, shape in shapes.items()}, lift_of(model))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}
    learned = sum(p.numel() for k, p in model.named_parameters() if not k.startswith("lift."))
    assert learned == member.parameters - math.prod(told["keys"]["pos_start"])  # which is in the position embeddings


def lift_of(model: Generator) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if k.startswith("lift.")}


def test_a_missing_or_an_unknown_key_is_named():
    golden = recorded(GOLDEN / "var")
    lift = lift_of(checks.network(golden))
    less = {k: v for k, v in golden.weights.items() if k != "blocks.1.ffn.fc1.bias"}
    with pytest.raises(KeyError, match=r"blocks\.1\.ffn\.fc1\.bias"):
        var.generator(less, lift)
    with pytest.raises(KeyError, match=r"lift\.codebook"):
        var.generator(golden.weights, {})
    more = var.generator({**golden.weights, "blocks.0.ada_gss_2": torch.zeros(1)}, lift)
    with pytest.raises(RuntimeError, match="ada_gss_2"):
        copy.deepcopy(checks.network(golden)).load_state_dict(more)


# ----------------------------------------------------------------------------------------- wrong versions of the blocks


@torch.no_grad()
def moved(golden, model: Generator | None = None) -> float:
    """The largest difference of a model's logits from the recorded ones."""
    model = model or checks.network(golden)
    return float((model(golden["forward.codes"], golden["forward.labels"]) - golden["forward.logits"]).abs().max())


def anew(golden, **other) -> Generator:
    """The recorded network with other options, of what weights it then has."""
    model = checks.network(golden)
    options = Options(**{**vars(model.options), **other})
    built = scale.Generator(options, model.spec, model.plan, model.num_classes, model.unit, copy.deepcopy(model.lift))
    built.load_state_dict(model.state_dict(), strict=False)
    return built.eval()


@pytest.fixture(params=["var", "var_shared_aln"])
def golden(request):
    return recorded(GOLDEN / request.param)


def test_cosine_attention_divided_by_the_root_of_the_width_is_caught(golden, monkeypatch):
    plain = blocks.Attention._on_spheres
    monkeypatch.setattr(
        blocks.Attention,
        "_on_spheres",
        lambda self, q, k: (plain(self, q, k)[0] / math.sqrt(q.shape[-1]), plain(self, q, k)[1]),
    )
    assert moved(golden) > 0.1


def test_an_unlimited_scale_of_cosine_attention_is_caught(golden, monkeypatch):
    monkeypatch.setattr(blocks, "MAX_QK_SCALE", math.inf)
    assert moved(golden) > 0.001


def test_another_order_of_the_modulation_is_caught(golden, monkeypatch):
    for order in ([0, 1, 2, 3, 4, 5], [4, 2, 0, 5, 3, 1]):  # as published, which is not ours; shifts for scales
        monkeypatch.setattr(var, "AS_HERE", order)
        weights = var.generator(golden.weights, lift_of(checks.network(golden)))
        model = anew(golden)
        model.load_state_dict(weights)
        assert moved(golden, model) > 0.1


def test_a_bias_of_the_keys_is_caught_and_one_of_zeros_is_none(golden):
    model = anew(golden, attention_bias="qkv")
    of_keys = slice(model.options.dim, 2 * model.options.dim)
    for block, published in zip(model.transformer.blocks, checks.network(golden).transformer.blocks, strict=True):
        q, v = published.attention.q_bias, published.attention.v_bias
        block.attention.qkv.bias.data = torch.cat([q, torch.zeros_like(v), v])
    assert moved(golden, model) < 1e-4
    for block in model.transformer.blocks:
        block.attention.qkv.bias.data[of_keys] = 0.1
    assert moved(golden, model) > 0.01


@pytest.mark.parametrize(
    "wrong", [{"norm": "rms"}, {"rope": True}, {"attention_bias": "none"}, {"head_bias": False}, {"adaln_head": False}]
)
def test_other_kinds_of_blocks_are_caught(golden, wrong):
    assert moved(golden, anew(golden)) < 1e-4, "the control"
    assert moved(golden, anew(golden, **wrong)) > 0.01


# ----------------------------------------------------------------------------------------------------- lower precision


@pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 0.95), (torch.bfloat16, 0.7)])
@pytest.mark.parametrize("case", ["generate.codes", "generate_cfg4.codes"])
def test_the_whole_sampling_call_runs_under_autocast(golden, case, dtype, least):
    """As published: fp16 around all of it."""
    assert float((checks.greedy(golden, case, dtype) == golden[case]).float().mean()) >= least


def test_caches_of_the_autocast_type_change_nothing(golden):
    """Attention would bring keys and values to it in every pass."""
    model, classes, laws = checks.network(golden), golden["generate.labels"], {}
    for dtype in (torch.bfloat16, torch.float32):
        with torch.autocast("cpu", torch.bfloat16):
            state = model.start(classes, torch.arange(len(classes)), Noise(0))
            assert state.caches[0].k.dtype == state.caches[0].v.dtype == torch.bfloat16
            for cache in state.caches:
                cache.k, cache.v = cache.k.to(dtype), cache.v.to(dtype)
            laws[dtype] = []
            for slots in model.groups(state):
                laws[dtype].append(model.query(state, slots[:, None]).logits)
                model.commit(state, golden["generate.codes"].gather(1, slots)[:, None], 1)
    assert all(torch.equal(a, b) for a, b in zip(*laws.values(), strict=True))


def test_sampling_in_bf16_keeps_the_lift_exact(golden):
    model = copy.deepcopy(checks.network(golden))
    lift = {k: v.clone() for k, v in lift_of(model).items()}
    model.cast(torch.bfloat16)
    assert model.word.weight.dtype == torch.bfloat16
    assert all(torch.equal(v, lift[k]) and v.dtype == torch.float32 for k, v in lift_of(model).items())
    assert float((checks.drawn(model, golden, "generate.codes") == golden["generate.codes"]).float().mean()) >= 0.7


# -------------------------------------------------------------------------------------------------------- all the units


@pytest.mark.parametrize("name", ["token", "par", "masked", "rar", "cell"])
@pytest.mark.parametrize("kind", [OF_VAR, COSINE], ids=["VAR's", "cosine"])
def test_every_part_of_a_block_learns(name, kind):
    model = toy(name, model=kind).train()
    model.loss(random_codes(model), COND)["loss"].backward()
    without = {k for k, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert not without


def test_everything_but_the_lift_learns():
    model = toy("scale", model=OF_VAR).train()
    model.loss(random_codes(model), COND)["loss"].backward()
    assert all((p.grad is None) == k.startswith("lift.") for k, p in model.named_parameters())


def test_a_block_whose_adaln_is_untrained_adds_nothing():
    for kind in (OF_VAR, COSINE):
        model = toy("scale", make=untrained, model=kind)
        x = torch.randn(2, model.plan.length, model.options.shape().dim, dtype=torch.float64)
        modulation = model.modulations(torch.tensor([0, 1]))[0]
        rope = model.layout.rope(model.layout.at[None])
        assert torch.equal(model.transformer.blocks[0](x, rope, model.layout.attend(x.device), modulation), x)


@torch.no_grad()
@pytest.mark.parametrize("name", ["scale", "par"])
@pytest.mark.parametrize("kind", [OF_VAR, COSINE], ids=["VAR's", "cosine"])
def test_kernels_of_attention_agree_on_the_blocks(name, kind):
    found = {}
    for backend in ("sdpa", "matmul", "flex"):
        model = toy(name, model={**kind, "attention": backend}).float()
        found[backend] = model(random_codes(model), COND)
    assert max(float((found[b] - found["sdpa"]).abs().max()) for b in ("matmul", "flex")) < 1e-3
    other = attention.masked(torch.ones(1, 1, dtype=torch.bool))
    model.layout._attend[torch.device("cpu")] = other
    assert (model(random_codes(model), COND) - found["sdpa"]).abs().max() > 0.01, "the control: no mask"


@torch.no_grad()
@pytest.mark.parametrize("kind", [OF_VAR, COSINE], ids=["VAR's", "cosine"])
def test_images_that_go_on_without_the_others_keep_their_modulation(kind):
    model = toy("scale", PYRAMID, model=kind)
    codes, rows = random_codes(model), torch.tensor([2, 0])
    state = model.start(COND, torch.arange(3), Noise(0))
    first, second = model.groups(state)[:2]
    model.query(state, first[:, None])
    model.commit(state, codes.gather(1, first)[:, None], 1)
    all_laws = model.query(model.select(state, torch.arange(3)), second[:, None]).logits
    assert torch.equal(model.query(model.select(state, rows), second[rows][:, None]).logits, all_laws[rows])


def test_a_draft_head_for_a_network_with_adaln_has_none_of_its_own():
    target = toy("token", model=COSINE)
    head = eagle.Eagle(eagle.Options(), target).double()
    assert head.loss(random_codes(target), COND)["loss"].isfinite()
    assert not [k for k in head.state_dict() if "modulate" in k or "own" in k]


# ------------------------------------------------------------------------------------------------------------- options


def test_what_old_runs_said_of_qk_norm_still_holds():
    for old, now in ((True, "rms"), (False, "none"), ("l2", "l2")):
        assert build(Options, {"size": "nano", "qk_norm": old}).qk_norm == now
    assert build(Options, {"size": "nano"}, ["qk_norm=true"]).qk_norm == "rms"
    with pytest.raises(ValueError, match=r"model\.qk_norm 'cosine'; choose one of none, rms, l2"):
        build(Options, {}, ["qk_norm=cosine"])


def test_a_run_from_before_the_other_norms_resumes(tmp_path, monkeypatch):
    options = load(training.Options, words=["tokenizer=runs/t", "model.size=nano"])
    old = to_dict(options)
    old["model"] = {k: v for k, v in old["model"].items() if k not in {*OF_VAR, "caption_length", "caption_channels"}}
    old["model"]["qk_norm"] = False
    (tmp_path / "options.json").write_text(json.dumps(old))
    monkeypatch.setattr(checkpoint, "read_config", lambda folder: {"kind": "generator", "model": dict(old["model"])})
    config = {"kind": "generator", "model": to_dict(options.model)}
    train.remember_options(tmp_path, options, tmp_path, config)
    other = replace(options, model=Options(size="nano", qk_norm="l2"))
    with pytest.raises(ValueError, match="model.qk_norm was none, is l2"):
        train.remember_options(tmp_path, other, tmp_path, {**config, "model": to_dict(other.model)})


def test_parameters_of_old_checkpoints_keep_their_names():
    names = ["attention_norm.weight", "attention.qkv.weight", "attention.out.weight", "ffn_norm.weight",
             "ffn.w13.weight", "ffn.w2.weight"]  # fmt: skip
    old = [f"transformer.blocks.{i}.{name}" for i in range(2) for name in names]
    old += ["code_embedding.weight", "class_embedding.weight", "transformer.norm.weight", "head.weight"]
    assert set(toy("token", make=untrained).state_dict()) == set(old)
    normed = toy("token", make=untrained, model={"qk_norm": True}).state_dict()
    assert set(normed) - set(old) == {f"transformer.blocks.{i}.attention.{x}_norm.weight" for i in (0, 1) for x in "qk"}
    flow = set(toy("flow", make=untrained).state_dict())
    assert {"transformer.blocks.0.own", "modulate.1.weight", "modulate.1.bias", "head.bias"} <= flow
    assert not [k for k in flow if "transformer.modulate" in k]


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("flow", {"adaln": "shared"}, "unit=flow has its own AdaLN"),
        ("flow", {"adaln_head": True}, "unit=flow has its own AdaLN"),
        ("randar", {"rope": False}, "leave model.rope=true"),
        ("token", {"adaln": "block", "caption_length": 3, "caption_channels": 4}, "AdaLN is of"),
    ],
)
def test_what_does_not_go_together_is_refused(name, model, message):
    with pytest.raises(ValueError, match=message):
        toy(name, model=model)


def test_continuous_codes_have_no_logits_to_bias():
    with pytest.raises(ValueError, match="model.head_bias is of logits"):
        toy("par", CodeSpec(((4, 4),), (), 4), model={"head_bias": True})
