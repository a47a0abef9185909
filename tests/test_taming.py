"""LlamaGen's and VAR's tokenizers: every published key has its place, and what is nearly right is told from right.

That they agree with the recorded ones is checked by systems/llamagen_vq.py and systems/var_vqvae.py.
"""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pointillist import CodeSpec
from pointillist.tokenizers import multiscale, quantizers, vqgan, vqvae
from pointillist.tokenizers.multiscale import quantise
from pointillist.zoo.taming import llamagen_vq, network, var_vqvae
from tests.golden_files import HERE, recorded
from tests.systems.llamagen_vq import tokenizer as llamagen

KEYS = HERE / "golden" / "keys"
LLAMAGEN = recorded(HERE / "golden" / "llamagen_vq_chmult")
VQ = {"ch": 128, "blocks": 2, "z": 256, "vocab": 16384, "channels": 8}
VAR = {"ch": 160, "mult": [1, 1, 2, 2, 4], "blocks": 2, "z": 32, "vocab": 4096, "channels": 32}
PUBLISHED = {  # name -> key list, options, image size, grid
    "VQ-16": ("llamagen_keys", {**VQ, "mult": [1, 1, 2, 2, 4]}, 384, (24, 24)),
    "VQ-8": ("llamagen_keys", {**VQ, "mult": [1, 2, 2, 4]}, 256, (32, 32)),
    "VAR 256": ("var_vqvae_keys", {**VAR, "sides": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]}, 256, (16, 16)),
    "VAR 512": ("var_vqvae_512_keys", {**VAR, "sides": [1, 2, 3, 4, 6, 9, 13, 18, 24, 32]}, 512, (32, 32)),
}
PARAMETERS = {"VQ-16": 71_883_403, "VQ-8": 70_109_835, "VAR 256": 108_948_355, "VAR 512": 108_948_355}


@cache
def published(name: str) -> tuple[dict[str, Tensor], int]:
    """A published file's weights without values, and how many parameters its list counts."""
    stored = json.loads((KEYS / f"{PUBLISHED[name][0]}.json").read_text())
    stored = stored["models"][name] if name in stored.get("models", {}) else stored
    shapes = stored.get("state_dict") or stored["keys"]
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return weights, stored.get("parameters") or stored["n_parameters"]


def convert(name: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return (llamagen_vq if name.startswith("VQ") else var_vqvae)(weights, {})


def full_size(name: str) -> vqgan.Tokenizer | vqvae.Tokenizer:
    module, (_, options, image_size, _) = vqgan if name.startswith("VQ") else vqvae, PUBLISHED[name]
    with torch.device("meta"):
        return module.Tokenizer(module.Options(**options), image_size)


def small(kind: str, **options) -> vqgan.Tokenizer | vqvae.Tokenizer:
    """For images of 16 pixels."""
    torch.manual_seed(0)
    if kind == "vqgan":
        made = vqgan.Tokenizer(vqgan.Options(**{"mult": [1, 2], "z": 16, "vocab": 32, **options}), 16)
    else:
        made = vqvae.Tokenizer(vqvae.Options(**{"mult": [1, 2], "vocab": 32, **options}), 16)
    return made.eval()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# ---------------------------------------------------------------------------------------------------- published weights


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_key_has_its_place(name):
    weights, listed = published(name)
    tokenizer, ours = full_size(name), convert(name, weights)
    wanted = {key: value.shape for key, value in tokenizer.state_dict().items()}
    assert {key: value.shape for key, value in ours.items()} == wanted
    assert sum(value.numel() for key, value in ours.items() if key != "count") == PARAMETERS[name] == listed
    tokenizer.load_state_dict(ours, strict=True)
    assert tokenizer.spec.grids[-1] == PUBLISHED[name][3]


@pytest.mark.parametrize("name", ["VQ-16", "VAR 256"])
def test_a_missing_key_is_named(name):
    weights, _ = published(name)
    for key in ("quantize.embedding.weight", "encoder.conv_in.bias", "post_quant_conv.weight"):
        with pytest.raises(KeyError, match=key):
            convert(name, {k: v for k, v in weights.items() if k != key})
    with pytest.raises(KeyError, match=r"qresi_ls\.3\.bias"):
        var_vqvae({k: v for k, v in published("VAR 256")[0].items() if "qresi_ls.3.bias" not in k}, {})
    inside = next(key for key in weights if "1.norm2.weight" in key)
    with pytest.raises(RuntimeError, match=r"Missing key.*network\.down_blocks"):
        full_size(name).load_state_dict(convert(name, {k: v for k, v in weights.items() if k != inside}))


@pytest.mark.parametrize("key", ["encoder.extra.weight", "decoder.mid.3.q.weight", "loss.discriminator.weight"])
def test_an_unknown_key_is_left_for_the_strict_load(key):
    weights = {**published("VQ-8")[0], key: torch.empty(3, device="meta")}
    with pytest.raises(RuntimeError, match=f"Unexpected key.*{key}"):
        full_size("VQ-8").load_state_dict(llamagen_vq(weights, {}))


def in_vars_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """LlamaGen's network as VAR would have saved it: levels of the decoder from the finest, attention in one piece."""
    last, written = 2, {}
    for key, value in weights.items():
        for ours, theirs in (("mid.0", "mid.block_1"), ("mid.1", "mid.attn_1"), ("mid.2", "mid.block_2")):
            key = key.replace(ours, theirs)
        for i in range(last + 1):
            key = key.replace(f"encoder.conv_blocks.{i}", f"encoder.down.{i}")
            key = key.replace(f"decoder.conv_blocks.{i}", f"decoder.up.{last - i}")
        written[key.replace(".res.", ".block.")] = value
    for key in [key for key in written if ".q." in key]:
        parts = [written.pop(key.replace(".q.", f".{letter}.")) for letter in "qkv"]
        written[key.replace(".q.", ".qkv.")] = torch.cat(parts)
    return written


def test_both_dialects_name_one_network(tmp_path):
    weights = {key: value for key, value in LLAMAGEN.weights.items() if not key.startswith("quantize.")}
    theirs = in_vars_names(weights)
    assert not theirs.keys() & {key for key in weights if ".attn." in key or "conv_blocks" in key}
    one, other = network(weights), network(theirs)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    save_file(other, tmp_path / "network.safetensors")  # it refuses tensors that share memory


def test_the_maps_own_mistakes_would_show():
    """Levels of the decoder not reversed do not fit; queries, keys, values in another order fit and decode wrongly."""
    theirs = in_vars_names(LLAMAGEN.weights)
    swapped = {key.replace(".up.", ".conv_blocks."): value for key, value in theirs.items()}
    tokenizer = llamagen(LLAMAGEN)
    shapes = {key: value.shape for key, value in tokenizer.decoder.state_dict().items()}
    assert any(shapes.get(key[8:]) != value.shape for key, value in network(swapped).items() if key[:8] == "decoder.")
    rolled = {k: torch.cat(v.chunk(3)[1:] + v.chunk(3)[:1]) if ".qkv." in k else v for k, v in theirs.items()}
    rolled = {k[8:]: v for k, v in network(rolled).items() if k.startswith("decoder.")}
    wrong = vqgan.networks([32, 32, 64], 2, 16, 8)[1]
    wrong.load_state_dict(rolled)
    vectors = tokenizer.vectors(LLAMAGEN["encode.indices"].flatten(1))
    assert distance(wrong(vectors).detach(), LLAMAGEN["decode.image"]) > 0.05


# ----------------------------------------------------------------------------------------------------- cosine codebooks


def test_rows_that_are_not_normalised_give_other_codes_and_images():
    tokenizer, codes = llamagen(LLAMAGEN), LLAMAGEN["encode.indices"].flatten(1)
    rows, z = tokenizer.quantizer.rows, LLAMAGEN["quant_conv.output"].movedim(1, -1)
    raw = tokenizer.decoder(rows[codes].unflatten(1, tokenizer.grid).movedim(-1, 1))
    assert distance(raw, LLAMAGEN["decode.image"]) > 0.5
    assert not torch.equal(quantizers.nearest(z, rows), LLAMAGEN["encode.indices"])
    assert not torch.equal(quantizers.nearest(F.normalize(z, dim=-1), rows), LLAMAGEN["encode.indices"])


def test_the_codebook_is_what_the_decoder_sees():
    tokenizer, codes = llamagen(LLAMAGEN), LLAMAGEN["encode.indices"].flatten(1)
    assert torch.allclose(tokenizer.codebook.norm(dim=-1), torch.ones(48))
    assert torch.equal(tokenizer.codebook[codes].mT.unflatten(2, tokenizer.grid), tokenizer.vectors(codes))
    assert not torch.allclose(tokenizer.quantizer.rows.norm(dim=-1), torch.ones(48), atol=0.1), "the control"
    every = torch.arange(48)
    assert torch.equal(tokenizer.quantizer.lookup(7 * tokenizer.quantizer.embed(every)), every)


def test_codebook_and_encoder_learn_by_gradient():
    tokenizer = small("vqgan").train()
    tokenizer.loss(torch.rand(4, 3, 16, 16) * 2 - 1)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    quantizer, z = tokenizer.quantizer, torch.randn(5, 8, requires_grad=True)
    pull, commitment = quantizer.losses(F.normalize(z, dim=-1), quantizer.embed(quantizer.lookup(z)))
    assert torch.autograd.grad(pull, z, allow_unused=True, retain_graph=True) == (None,), "it moves codes alone"
    assert torch.autograd.grad(commitment, quantizer.rows, allow_unused=True) == (None,), "it moves the encoder alone"
    assert commitment.item() == pytest.approx(0.25 * pull.item())


def test_nearest_in_pieces_is_nearest_at_once(monkeypatch):
    torch.manual_seed(0)
    z, codebook = torch.randn(3, 17, 4), torch.randn(29, 4)
    whole = torch.cdist(z, codebook).argmin(-1)
    assert torch.equal(quantizers.nearest(z, codebook), whole)
    monkeypatch.setattr(quantizers, "BLOCK", 100)
    assert torch.equal(quantizers.nearest(z, codebook), whole)


# --------------------------------------------------------------------------------------------------------- both of them


def test_f_hat_of_the_codes_is_what_the_encoder_arrived_at():
    tokenizer, images = small("vqvae").requires_grad_(False), torch.rand(2, 3, 16, 16) * 2 - 1
    codes, f_hats, _ = quantise(tokenizer.lift, tokenizer.encoder(images))
    assert torch.equal(tokenizer.encode(images), codes)
    assert distance(tokenizer.lift.f_hat(codes), f_hats[-1]) < 1e-5
    again = vqvae.Lift(CodeSpec.from_dict({**vars(tokenizer.spec)}))
    again.load_state_dict(tokenizer.lift.state_dict())
    assert torch.equal(tokenizer.decode(codes), tokenizer.decoder(again.f_hat(codes)).clamp(-1, 1))


def test_other_convolutions_of_the_scales_give_other_images():
    """What float32 makes of the near-ties of ten scales is another map than the published one."""
    tokenizer = small("vqvae", mult=[1], sides=[1, 2, 3, 4, 5, 6, 8, 10, 13, 16]).requires_grad_(False)
    assert tokenizer.lift.ticks == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    for phi in tokenizer.lift.phi:
        torch.nn.init.normal_(phi.weight, std=0.2)
    codes = torch.randint(32, (1, tokenizer.spec.length))
    right = tokenizer.lift.f_hat(codes)
    tokenizer.lift.ticks = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert distance(tokenizer.lift.f_hat(codes), right) > 0.1


@pytest.mark.parametrize("kind", ["vqgan", "vqvae"])
def test_half_precision_and_channels_last_decode_alike(kind):
    tokenizer = small(kind).requires_grad_(False)
    codes = torch.randint(32, (2, tokenizer.spec.length))
    images = tokenizer.decode(codes)
    last = tokenizer.to(memory_format=torch.channels_last).decode(codes)
    assert distance(last, images) < 1e-5
    half = tokenizer.to(torch.bfloat16).decode(codes)
    assert half.dtype == torch.float32 and 0 < distance(half, images) < 0.2
    assert tokenizer.encode(images).shape == codes.shape


@pytest.mark.parametrize("kind", ["vqgan", "vqvae"])
def test_codes_do_not_depend_on_autocast_after_the_encoder(kind):
    tokenizer = small(kind).requires_grad_(False)
    f = tokenizer.encoder(torch.rand(2, 3, 16, 16) * 2 - 1)
    of = tokenizer.quantizer.lookup if kind == "vqgan" else lambda x: quantise(tokenizer.lift, x)[0]
    x = f.movedim(1, -1) if kind == "vqgan" else f
    codes = of(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(of(x), codes)


@pytest.mark.parametrize("kind", ["vqgan", "vqvae"])
def test_sizes_that_do_not_fit_are_refused(kind):
    with pytest.raises(ValueError, match="mult must name at least one level with ch .* multiple of 32, .*got ch=24"):
        small(kind, ch=24)
    for wrong in ({"mult": []}, {"blocks": 0}, {"ch": 0}):
        with pytest.raises(ValueError, match="tokenizer.mult must name at least one level"):
            small(kind, **wrong)
    with pytest.raises(ValueError, match=r"tokenizer.mult \[1, 1, 1, 1, 1, 1\] needs an image size divisible by 32"):
        small(kind, mult=[1] * 6)
    with pytest.raises(ValueError, match="vocab must be at least 2 and channels at least 1, got 1"):
        small(kind, vocab=1)
    with pytest.raises(ValueError, match="must be .B, "):
        small(kind).decode(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="vocab=5000 needs as many vectors to start from"):
        small(kind, vocab=5000).fit(torch.zeros(1, 3, 16, 16))


def test_scales_end_at_the_encoders_grid():
    with pytest.raises(ValueError, match="tokenizer.sides must rise from at least 1 to the grid's side 8, got"):
        small("vqvae", sides=[1, 2, 4])
    assert vqvae.Lift is multiscale.Lift
