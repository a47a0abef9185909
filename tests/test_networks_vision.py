"""DINOv2 and CLIP against their authors' networks, at a small width and the real numbers of patches and positions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.layers import resample_abs_pos_embed
from torch_fidelity.feature_extractor_clip import VisionTransformer

from pointillist.evaluation.networks import clip, dinov2
from pointillist.evaluation.networks.bicubic import normalize, pillow_bicubic
from tests.random_inception import pictures

GOLDEN = Path(__file__).parent / "golden" / "networks"
CASES = load_file(GOLDEN / "cases.safetensors")
CPU = torch.device("cpu")
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}
KINDS = {
    "dinov2": (dinov2, SMALL, "cls"),
    "clip": (clip, SMALL | {"num_classes": 8}, "embedding"),
}


def weights(kind):
    return load_file(GOLDEN / f"{kind}_weights.safetensors")


def enlarged(kind):
    """The golden images at the network's size, by repeating pixels: uint8 [3, 3, 224 or 336, ...]."""
    times = KINDS[kind][0].SIZE // 28
    return CASES[f"{kind}.images"].repeat_interleave(times, 2).repeat_interleave(times, 3)


def opened(kind):
    module, sizes, _ = KINDS[kind]
    return module.read(GOLDEN / f"{kind}_weights.safetensors", CPU, **sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_authors_network(kind):
    _, _, layer = KINDS[kind]
    got = opened(kind)(enlarged(kind), [layer])[layer]
    expected = CASES[f"{kind}.{layer}"]
    assert got.shape == expected.shape and got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_positions_follow_the_hubs_rule_and_timms_is_another():
    table = weights("dinov2")["pos_embed"]
    torch.testing.assert_close(dinov2.hub_positions(table, 16), CASES["dinov2.positions"], rtol=1e-6, atol=1e-6)
    timms = resample_abs_pos_embed(table, [16, 16])
    assert (timms - CASES["dinov2.positions"]).norm() > 0.1 * CASES["dinov2.positions"].norm()
    network = dinov2.build(weights("dinov2") | {"pos_embed": timms}, GOLDEN, **SMALL)
    images = normalize(enlarged("dinov2"), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert (network(images) - CASES["dinov2.cls"]).abs().max() > 0.01, "the control: timm's rule, other features"


def test_clip_needs_the_quick_gelu():
    network = clip.build(weights("clip"), GOLDEN, **KINDS["clip"][1])
    images = normalize(enlarged("clip"), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    for block in network.blocks:
        block.mlp.act = torch.nn.GELU()
    assert (network(images) - CASES["clip.embedding"]).abs().max() > 0.01


def test_clip_reads_openais_timms_and_transformers_layouts(tmp_path):
    torch.manual_seed(0)
    theirs = VisionTransformer(input_resolution=336, patch_size=14, width=16, layers=2, heads=2, output_dim=8)
    images = normalize(enlarged("clip"), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        expected = theirs(images)
    openai = {f"visual.{k}": v for k, v in theirs.state_dict().items()} | {"text_projection": torch.ones(2, 2)}
    network = clip.build(openai, GOLDEN, **KINDS["clip"][1])
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    timms = network.state_dict()
    for state in (timms, {k: v for k, v in timms.items() if k != "head.bias"}):
        torch.testing.assert_close(
            clip.build(state, GOLDEN, **KINDS["clip"][1])(images), expected, rtol=1e-4, atol=1e-5
        )
    whole = weights("clip") | {
        "vision_model.embeddings.position_ids": torch.arange(577)[None],
        "text_model.final_layer_norm.weight": torch.ones(3),
        "logit_scale": torch.tensor(1.0),
    }
    save_file(whole, tmp_path / "whole.safetensors")
    got = clip.read(tmp_path / "whole.safetensors", CPU, **KINDS["clip"][1])(enlarged("clip"), ["embedding"])
    torch.testing.assert_close(got["embedding"], CASES["clip.embedding"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_other_weights_are_refused_in_one_line(kind):
    module, sizes, _ = KINDS[kind]
    state = weights(kind)
    table = "pos_embed" if kind == "dinov2" else "vision_model.embeddings.position_embedding.weight"
    for change, message in (
        ({k: v for k, v in state.items() if k != table}, "lacks pos_embed"),
        (state | {table: state[table][..., :256, :]}, r"another shape pos_embed \[1, 256, 16\]"),
        (
            state | ({"register_tokens": torch.ones(4)} if kind == "dinov2" else {"vision_model.x": torch.ones(1)}),
            "has",
        ),
        (
            {k: v for k, v in state.items() if "1.attn.qkv.bias" not in k and "1.self_attn.k_proj.bias" not in k},
            "lacks",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            module.build(change, GOLDEN, **sizes)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="not this network's weights"):
        module.open_network(str(GOLDEN / f"{kind}_weights.safetensors"), CPU)  # too narrow for a ViT-L


def test_a_clip_of_another_image_size_is_refused_and_not_interpolated():
    state = {f"visual.{k}": v for k, v in VisionTransformer(224, 14, 16, 2, 2, 8).state_dict().items()}
    with pytest.raises(ValueError, match="257 positions, not the 577 of 336-pixel images"):
        clip.build(state, GOLDEN, **KINDS["clip"][1])


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_size_are_resized_by_pillow(kind):
    module, _, layer = KINDS[kind]
    network, images = opened(kind), pictures(3, 64)
    resized = [Image.fromarray(i.permute(1, 2, 0).numpy()).resize((module.SIZE,) * 2, Image.BICUBIC) for i in images]
    by_hand = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in resized])
    assert torch.equal(pillow_bicubic(images, module.SIZE), by_hand)
    got = network(images, [layer])[layer]
    assert torch.equal(got, network(by_hand, [layer])[layer])
    torch.testing.assert_close(network(images[2:], [layer])[layer], got[2:], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        network(images.float(), [layer])


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_admits_that_no_hash_is_known(kind):
    network = opened(kind)
    card = json.loads(json.dumps(network.card))
    assert card["weights_hash_known"] is False and len(card["sha256"]) == 64 and card["name"] == kind
    assert "Pillow" in card["resize"] and (kind == "clip" or card["positions"] == "hub")
