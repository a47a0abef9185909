"""From a decoder's floats, or a stored picture, to the square uint8 images that a score sees.

Published pipelines differ in both steps, and the numbers differ with them, so both are options and part of the
protocol. Which publication does what:

    round      LlamaGen, MAR, RandAR with LlamaGen's VQ          truncate   ADM, VAR, RAR/TiTok, RAE
    adm        the crop behind ADM's ImageNet statistics         bicubic    LlamaGen, PAR: 384 -> 256
    pil_*      torchvision's Resize and CenterCrop (VAR: Lanczos)

Truncation darkens by half a grey level in the mean, and is no inverse of x / 127.5 - 1 in float32: 63 of the 256 levels
come back one lower. Rounding brings back all of them, in float16 too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from pointillist.data.crops import center_crop, square
from pointillist.data.images import to_float, to_uint8

if TYPE_CHECKING:
    from torch import Tensor

Resize = Literal["none", "adm", "pil_bicubic", "pil_lanczos", "bicubic"]
Quantize = Literal["round", "truncate"]
FILTERS = {"pil_bicubic": Image.Resampling.BICUBIC, "pil_lanczos": Image.Resampling.LANCZOS}
RANGES = ([-1, 1], [0, 1], [0, 255])
DECODED = (-1.0, 1.0)  # what a tokenizer's decoder gives


@dataclass
class Pixels:
    size: int = 0  # side of the images that are scored, with a resize policy; 0 = as they are
    resize: Resize = "none"  # adm: ADM's centre crop; pil_*: shorter side, antialiased, then centre; bicubic: on floats
    quantize: Quantize = "round"  # floats to 0..255: round to the nearest level, or truncate as ADM and VAR do
    value_range: list[float] = field(default_factory=lambda: [-1.0, 1.0])  # of float arrays: [lowest,highest] value

    def check(self) -> None:
        """Raises ValueError for options that contradict each other."""
        for name, kind in (("resize", Resize), ("quantize", Quantize)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)} is unknown; choose one of {', '.join(get_args(kind))}")
        policies = "|".join(get_args(Resize)[1:])
        if self.size < 0:
            raise ValueError(f"size={self.size} must be a number of pixels, or 0 for images as they are")
        if self.size and self.resize == "none":
            raise ValueError(f"size={self.size} does not say how to get there; add pixels.resize={policies}")
        if self.resize != "none" and not self.size:
            raise ValueError(f"resize={self.resize} needs a size; add pixels.size=256, or leave resize out")
        bounds = self.value_range
        if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or not bounds[0] < bounds[1]:
            allowed = ", ".join(map(shown, RANGES))
            raise ValueError(f"value_range={shown(bounds)} must be [lowest,highest] value of the floats: {allowed}")


def shown(bounds: Sequence[float]) -> str:
    """A range as it is typed: [-1,1]."""
    return f"[{','.join(f'{b:g}' for b in bounds)}]"


def card(pixels: Pixels, size: int = 0, quantized: bool = True) -> dict:
    """What of the policy must be equal before two numbers are compared, JSON-ready.

    size       side of the images, where it is known
    quantized  False for images that were uint8 when they came: nobody knows how they were made so
    """
    chosen = pixels.quantize if quantized or pixels.resize == "bicubic" else "as stored"
    return {"resize": pixels.resize, "size": size or pixels.size, "quantize": chosen}


def finish(images: Tensor, pixels: Pixels, value_range: Sequence[float] = DECODED) -> Tensor:
    """Float images [b, 3, H, W] of any float dtype -> uint8 [b, 3, size, size] on the same device.

    bicubic works on the floats, the other resizers on uint8, as published. Values beyond `value_range` become 0 or 255,
    after the resizing. Raises ValueError for NaN and infinity.
    """
    images = images.float()  # first: 127.5 x + 127.5 in bfloat16 puts 40 % of the pixels one level off
    broken = int((~images.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise ValueError(f"{broken} of {len(images)} images hold NaN or infinity; decode them in float32, and look")
    if pixels.resize == "none" or images.shape[2:] == (pixels.size, pixels.size):
        return quantize(images, pixels, value_range)
    if pixels.resize == "bicubic":
        return quantize(_interpolate(images, pixels.size), pixels, value_range)
    import torch

    stored = quantize(images, pixels, value_range).permute(0, 2, 3, 1).cpu().numpy()
    fitted = np.stack([fit(Image.fromarray(image), pixels) for image in stored])
    return torch.from_numpy(fitted).permute(0, 3, 1, 2).to(images.device)


def quantize(images: Tensor, pixels: Pixels, value_range: Sequence[float] = DECODED) -> Tensor:
    """float32 in `value_range`, any shape -> uint8. truncate: floor(255 (x - lowest) / (highest - lowest))."""
    lowest, highest = value_range
    if pixels.quantize == "truncate":
        return ((images - lowest) * (255 / (highest - lowest))).floor().clamp(0, 255).byte()
    # [-1, 1] is left alone: an addition and its inverse would cost bits, and `to_uint8` is what sample.py writes with
    is_decoded = (lowest, highest) == DECODED
    return to_uint8(images if is_decoded else (images - lowest) * (2 / (highest - lowest)) - 1)


def fit(image: Image.Image, pixels: Pixels) -> np.ndarray:
    """A stored RGB picture -> uint8 [size, size, 3]; as it is, [H, W, 3], without a resize policy."""
    side = pixels.size
    if pixels.resize == "none" or image.size == (side, side):
        return np.array(image)
    if pixels.resize == "adm":
        return np.array(center_crop(image, side))
    if pixels.resize == "bicubic":
        import torch

        levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return finish(to_float(levels)[None], pixels)[0].permute(1, 2, 0).numpy()
    width, height = _shorter_side(image.width, image.height, side)
    image = image.resize((width, height), FILTERS[pixels.resize])
    return np.array(square(image, round((width - side) / 2), round((height - side) / 2), side))


def _shorter_side(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the shorter one at `side` and the longer one rounded down, as torchvision's Resize."""
    shorter = min(width, height)
    return side * width // shorter, side * height // shorter


def _interpolate(images: Tensor, side: int) -> Tensor:
    """F.interpolate's bicubic without antialias, shorter side to `side`, then the centre: [b, 3, side, side]."""
    import torch.nn.functional as F

    width, height = _shorter_side(images.shape[3], images.shape[2], side)
    images = F.interpolate(images, size=(height, width), mode="bicubic", align_corners=False, antialias=False)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return images[:, :, top : top + side, left : left + side]
