"""The Inception network of FID, sFID and the Inception Score: TensorFlow's of 2015-12-05, as torch-fidelity has it.

It reproduces the ADM evaluator's FID to 0.0015. torchvision's and timm's inception_v3 are other networks.
"""

from __future__ import annotations

import io
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

from pointillist.configs.files import file_hash
from pointillist.evaluation.networks.network import Network, libraries
from pointillist.evaluation.networks.weights import fill, find_weights, load_state

PUBLISHED = "6726825d"  # how the sha256 of the file begins; its name says so too
NAMES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")  # the same file
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAMES[0]}"
LAYERS = {"pool": 2048, "spatial": 2023, "logits": 1008}
SPATIAL_CHANNELS = 7  # of 192: 17 x 17 x 7 = 2023


class Extractor(FeatureExtractorInceptionV3):
    """torch-fidelity's network without weights; its `features_list` says where forward stops.

    Its constructor unpickles a weights file without the safety of weights_only, so it is handed one of ours that holds
    nothing; the real file is read by weights.load_state.
    """

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("inception", ["2048"], feature_extractor_weights_path=nothing)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As in torch, but for the constructor's empty dict, which is passed over."""
        return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None


def open_network(weights: str, device: torch.device) -> Network:
    """The network with the weights of a file; "" looks in POINTILLIST_INCEPTION_WEIGHTS and in torch's cache.

    Layers: "pool", the 2048 features of FID; "spatial", 2023 of sFID; "logits", 1008 without bias, of the Inception
    Score. `verified` means that the file's sha256 begins with PUBLISHED. Raises FileNotFoundError or ValueError.
    """
    path = find_weights(weights, "POINTILLIST_INCEPTION_WEIGHTS", NAMES, "Inception", URL)
    network = Extractor()
    fill(network, load_state(path), path)
    network = rearrange(network, device)
    sha256 = file_hash(path)
    details = {
        "weights_hash_known": True,
        "resize": "bilinear to 299 as TensorFlow 1.x, without antialias",
        "normalize": "(x - 128) / 128",
        "spatial": "first 7 channels of Mixed_6d.branch1x1 in NHWC order",
        "logits": "without bias",
        "libraries": libraries("torch-fidelity"),
    }

    def forward(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        return features(network, images, layers)

    return Network("inception", sha256, sha256.startswith(PUBLISHED), LAYERS, device, details, forward)


def rearrange(network: Extractor, device: torch.device) -> Extractor:
    """The same function in another order of sums, 1.6 times as fast on a CPU: BatchNorm folded into the convolutions,
    channels last.

    Rounding then differs as between any two orders, and a random network shows how much: on 256-pixel images pool
    features move by 7e-6 of the largest and by 1e-5 in norm, where float32 itself is 4e-6 and 6e-6 away from float64;
    on images of 48 pixels and noise by 4e-5 and 3e-5, float32 itself being 3e-5 and 2e-5 away. Rounding is no bias: the
    Frechet distance of two sets of 256 images moves by 1e-7 of itself, 5e-7 with one set computed either way.
    """
    for block in network.modules():
        if isinstance(block, BasicConv2d):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return network.to(device, memory_format=layout).requires_grad_(False)


def features(network: Extractor, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    """The named layers of uint8 images [b, 3, S, S]; stops as early as they allow."""
    found = {}
    # ADM flattens TensorFlow's NHWC tensor; from NCHW the same numbers in another order give an sFID of 299, not 6.14.
    spatial = "spatial" in layers and network.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, inputs, output: found.update(spatial=output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1))
    )
    names = {"pool": "2048", "logits": "logits_unbiased"}
    wanted = [layer for layer in names if layer in layers]
    network.features_list = [names[layer] for layer in wanted] or ["768"]  # 768: the first stop behind Mixed_6d
    try:
        outputs = network(images)
    finally:
        if spatial:
            spatial.remove()
    return found | dict(zip(wanted, outputs, strict=False))
