"""DINOv2 ViT-L/14 without registers, the network of FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675).

Images are resized to 224 pixels as the metric's authors do, by Pillow's bicubic filter; the feature is the class token
behind the last norm, 1024 numbers.
"""

from __future__ import annotations

from collections.abc import Collection
from math import isqrt
from pathlib import Path

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from pointillist.configs.files import file_hash
from pointillist.evaluation.networks.bicubic import normalize, pillow_bicubic
from pointillist.evaluation.networks.network import Network, libraries
from pointillist.evaluation.networks.weights import fill, find_weights, load_state

NAMES = ("dinov2_vitl14_pretrain.pth", "vit_large_patch14_dinov2.lvd142m.safetensors")
URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{NAMES[0]}"
SIZE = 224
OFFSET = 0.1  # of the hub's rule for positions


def open_network(weights: str, device: torch.device) -> Network:
    """The network with the weights of a file; "" looks in POINTILLIST_DINOV2_WEIGHTS and in torch's cache.

    Reads the hub's .pth and timm's .safetensors of the same network. No hash of either is published, so `verified`
    rests on the file holding every tensor of a ViT-L/14 in its shape and nothing else, and the card says so with
    "weights_hash_known": false; its sha256 tells two files apart. Raises FileNotFoundError or ValueError.
    """
    return read(find_weights(weights, "POINTILLIST_DINOV2_WEIGHTS", NAMES, "DINOv2", URL), device)


def read(path: Path, device: torch.device, **sizes: int) -> Network:
    """The network of one file; `sizes` (embed_dim, depth, num_heads) where it is not a ViT-L."""
    network = build(load_state(path), path, **sizes).to(device)
    details = {
        "weights_hash_known": False,
        "resize": f"bicubic to {SIZE} by Pillow, with antialias",
        "normalize": "ImageNet mean and standard deviation",
        "positions": "hub",
        "libraries": libraries("timm", "pillow"),
    }

    def forward(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        resized = pillow_bicubic(images, SIZE)
        return {"cls": network(normalize(resized, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))}

    return Network("dinov2", file_hash(path), True, {"cls": network.num_features}, device, details, forward)


def build(state: dict[str, Tensor], path: Path, **sizes: int) -> nn.Module:
    """timm's network, frozen, with the weights of `state`.

    It maps normalised float32 [b, 3, 224, 224] to the class token [b, D]. ValueError where keys do not fit.
    """
    with torch.device("meta"):  # no time for random weights
        network = timm.create_model("vit_large_patch14_dinov2", img_size=SIZE, num_classes=0, **sizes)
    state = {k: v for k, v in state.items() if k != "mask_token"}  # a token of the training task
    if "pos_embed" in state:
        state["pos_embed"] = hub_positions(state["pos_embed"], network.patch_embed.grid_size[0])
    fill(network.to_empty(device="cpu"), state, path)
    return network.eval().requires_grad_(False)


def hub_positions(table: Tensor, side: int) -> Tensor:
    """A table of positions [1, 1 + M^2, D] of M x M patches as the hub's network reads it for side x side patches.

    Bicubic without antialias, the scale taken as (side + 0.1) / M. timm's own rule, with antialias and an exact scale,
    gives other features: from 37 to 16, tables are 9% apart in norm for noise of 9 x 9 made smooth, 19% for 13 x 13.
    """
    rows = isqrt(table.shape[1] - 1)
    if rows == side or rows * rows != table.shape[1] - 1:  # the latter is for `fill` to refuse
        return table
    token, grid = table[:, :1], table[:, 1:].float().unflatten(1, (rows, rows)).permute(0, 3, 1, 2)
    scale = (side + OFFSET) / rows
    grid = nn.functional.interpolate(grid, mode="bicubic", scale_factor=(scale, scale), antialias=False)
    return torch.cat([token.float(), grid.flatten(2).transpose(1, 2)], 1)
