"""A feature network: uint8 images in, float32 vectors out, and a card that says how."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pointillist.training.precision import full_float32


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen network with named outputs.

    name      "inception"
    sha256    of the weights file, 64 hexadecimal digits
    verified  the file is the published one; each network's file says what that rests on
    layers    name -> width D of each output
    device    where it computes
    details   what else belongs on the card: how images are resized and normalised
    forward   (uint8 [b, 3, S, S] on `device`, names) -> name -> float32 [b, D]; computes no more than the names need
    """

    name: str
    sha256: str
    verified: bool
    layers: dict[str, int]
    device: torch.device
    details: dict[str, Any]
    forward: Callable[[Tensor, Collection[str]], dict[str, Tensor]]

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Features of uint8 images [b, 3, S, S]: name -> float32 [b, D] on the CPU, a row an image."""
        require_images(images)
        unknown = set(layers) - set(self.layers)
        assert not unknown, f"{self.name} has layers {', '.join(self.layers)}, not {', '.join(sorted(unknown))}"
        with full_float32():
            features = self.forward(images.to(self.device), layers)
        return {layer: features[layer].cpu() for layer in layers}

    @property
    def card(self) -> dict[str, Any]:
        """JSON-ready: which network this is and what it does to an image before it looks at it."""
        what = {"name": self.name, "sha256": self.sha256, "verified": self.verified}
        return what | self.details | {"precision": "float32 without TF32"}


def require_images(images: Tensor) -> None:
    """ValueError unless uint8 [b, 3, S, S]: floats do not say whether they end at 1 or at 255."""
    square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
    if images.dtype != torch.uint8 or not square:
        dtype = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"networks read uint8 images [b, 3, S, S], got {dtype} {list(images.shape)}; round to 0..255")


def libraries(*names: str) -> dict[str, str]:
    """Installed versions, for the card."""
    return {name: version(name) for name in ("torch", *names)}
