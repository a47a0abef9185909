"""The image tower of CLIP ViT-L/14 at 336 pixels, the network of CMMD (Jayasumana et al. 2024, arXiv 2401.09603).

Both published programs, in JAX and in PyTorch, bring every image to 336 pixels with Pillow's bicubic filter before the
network; the resizing inside their embedding function then has nothing left to do. The feature is the projected class
token, 768 numbers, not normalised: that is the score's business.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import timm
import torch
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from pointillist.configs.files import file_hash
from pointillist.evaluation.networks.bicubic import normalize, pillow_bicubic
from pointillist.evaluation.networks.network import Network, libraries
from pointillist.evaluation.networks.weights import fill, find_weights, load_state

NAMES = (
    "vit_large_patch14_clip_336.openai.safetensors",
    "clip-vit-large-patch14-336.safetensors",
    "ViT-L-14-336px.pth",
)
URL = "https://huggingface.co/timm/vit_large_patch14_clip_336.openai/resolve/main/model.safetensors"
SIZE, WIDTH = 336, 768

# Hugging Face transformers -> timm, applied in this order; query, key and value are joined before.
TRANSFORMERS = {
    r"^embeddings\.class_embedding$": "cls_token",
    r"^embeddings\.position_embedding\.weight$": "pos_embed",
    r"^embeddings\.patch_embedding\.": "patch_embed.proj.",
    r"^pre_layrnorm\.": "norm_pre.",
    r"^post_layernorm\.": "norm.",
    r"^encoder\.layers\.": "blocks.",
    r"\.self_attn\.out_proj\.": ".attn.proj.",
    r"\.self_attn\.qkv\.": ".attn.qkv.",
    r"\.layer_norm(\d)\.": r".norm\1.",
}


def open_network(weights: str, device: torch.device) -> Network:
    """The network with the weights of a file; "" looks in POINTILLIST_CLIP_WEIGHTS and in torch's cache.

    Reads the layouts of timm and open_clip, of OpenAI (as a plain state dict) and of Hugging Face transformers; a text
    tower beside it is left alone. No hash of these files is published, so `verified` rests on the file holding every
    tensor of the tower in its shape, and the card says so with "weights_hash_known": false. Raises FileNotFoundError or
    ValueError.
    """
    return read(find_weights(weights, "POINTILLIST_CLIP_WEIGHTS", NAMES, "CLIP ViT-L/14-336", URL), device)


def read(path: Path, device: torch.device, **sizes: int) -> Network:
    """The network of one file; `sizes` (embed_dim, depth, num_heads, num_classes) where it is not a ViT-L."""
    network = build(load_state(path), path, **sizes).to(device)
    details = {
        "weights_hash_known": False,
        "resize": f"bicubic to {SIZE} by Pillow, with antialias",
        "normalize": "CLIP mean and standard deviation",
        "libraries": libraries("timm", "pillow"),
    }

    def forward(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        resized = pillow_bicubic(images, SIZE)
        return {"embedding": network(normalize(resized, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))}

    return Network("clip", file_hash(path), True, {"embedding": network.num_classes}, device, details, forward)


def build(state: dict[str, Tensor], path: Path, **sizes: int) -> nn.Module:
    """timm's network, frozen, with the weights of `state`.

    It maps normalised float32 [b, 3, 336, 336] to embeddings [b, 768]. ValueError where keys do not fit. OpenAI trained
    with x * sigmoid(1.702 x) for GELU, hence the "quickgelu" variant; the other one loads too and is silently wrong.
    """
    sizes = {"num_classes": WIDTH} | sizes
    with torch.device("meta"):  # no time for random weights
        network = timm.create_model("vit_large_patch14_clip_quickgelu_336", img_size=SIZE, **sizes)
    if "visual.class_embedding" in state:
        rows, expected = len(state.get("visual.positional_embedding", ())), network.pos_embed.shape[1]
        if rows != expected:  # timm's converter would interpolate without a word
            raise ValueError(f"{path} has {rows} positions, not the {expected} of 336-pixel images; get ViT-L/14-336")
        state = checkpoint_filter_fn(state, network)
    elif "vision_model.embeddings.class_embedding" in state:
        state = from_transformers(state)
    fill(
        network.to_empty(device="cpu"), {"head.bias": torch.zeros(sizes["num_classes"])} | state, path
    )  # the projection has none
    return network.eval().requires_grad_(False)


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys and shapes of transformers' CLIPModel or CLIPVisionModelWithProjection as timm has them."""
    prefix = "vision_model."
    vision = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    vision.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: older versions stored them
    for key in [k for k in vision if ".q_proj." in k]:
        parts = [key.replace("q_proj", name) for name in ("q_proj", "k_proj", "v_proj")]
        if all(part in vision for part in parts):
            vision[key.replace("q_proj", "qkv")] = torch.cat([vision.pop(part) for part in parts])
    renamed = {"head.weight": state["visual_projection.weight"]} if "visual_projection.weight" in state else {}
    for key, value in vision.items():
        for pattern, name in TRANSFORMERS.items():
            key = re.sub(pattern, name, key)
        shape = {"cls_token": (1, 1, -1), "pos_embed": (1, *value.shape)}.get(key, value.shape)
        renamed[key] = value.view(shape)
    return renamed
