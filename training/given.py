"""What a sampling request fixes beforehand: codes to keep (inpainting) and the order in which codes are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pointillist.configs.files import file_hash
from pointillist.data.images import to_float, to_uint8
from pointillist.models.orders import ORDERS
from pointillist.sampling.laws import can_keep
from pointillist.training.load import fitting, kind_of

# Regions to paint: (rows, columns) as shares of the image.
REGIONS = {
    "left": ((0, 1), (0, 0.5)),
    "right": ((0, 1), (0.5, 1)),
    "top": ((0, 0.5), (0, 1)),
    "bottom": ((0.5, 1), (0, 1)),
    "centre": ((0.25, 0.75), (0.25, 0.75)),
}


@dataclass(frozen=True)
class Kept:
    """codes [1, N, ...], known [1, N] bool, a hash of both, and uint8 pictures [3, 3, S, S]: the image, the image
    without what is painted, and what its codes decode to."""

    codes: Tensor
    known: Tensor
    sha256: str
    pictures: Tensor


def kept_codes(image: str, mask: str, generator: Any, tokenizer: Any, size: int) -> Kept:
    """The codes of an image file; those are known of whose pixels the mask paints none. The whole image is encoded, as
    is usual: an encoder that looks far lets kept codes know a little of what lies under the mask.

    Raises ValueError for one without the other, what is no image, codes that have no place in the image, and units
    that would not see what is kept.
    """
    if not (image and mask):
        raise ValueError(f"inpainting needs image=FILE and mask=REGION or FILE, got image='{image}' and mask='{mask}'")
    spec, device = tokenizer.spec, next(generator.parameters()).device
    if any(len(grid) != 2 for grid in spec.grids):
        raise ValueError(f"this tokenizer's codes, {spec.grids}, have no place in the image that could be kept")
    pixels = torch.from_numpy(_square(image, size, "RGB")).movedim(-1, 0)[None]
    painted = _region(mask, size) if mask in REGIONS else _square(mask, size, "L") > 127
    if not painted.any():
        raise ValueError(f"mask={mask} paints nothing: its white is what will be painted")
    painted = torch.from_numpy(painted).float()[None, None]
    with torch.inference_mode():
        codes = tokenizer.encode(to_float(pixels.to(device)))
        codes = codes.chunk(2, dim=-1)[0] if spec.stochastic else codes  # means
        decoded = to_uint8(tokenizer.decode(codes)).cpu()
    pictures = torch.cat([pixels, torch.where(painted > 0, 128, pixels).to(torch.uint8), decoded])
    painted = painted.to(device)
    known = torch.cat([F.adaptive_max_pool2d(painted, grid).flatten(1) == 0 for grid in spec.grids], dim=1)
    if not can_keep(generator, known):
        free = [name for name in fitting(spec) if kind_of(name).any_order] or ["none on this tokenizer"]
        raise ValueError(
            f"unit={generator.unit.name} paints codes of this mask before it sees all that are kept; units that can "
            f"fill any mask: {', '.join(free)}"
        )
    content = file_hash(image) + (mask if mask in REGIONS else file_hash(mask))
    return Kept(codes, known, sha256(content.encode()).hexdigest(), pictures)


def _region(name: str, size: int) -> np.ndarray:
    painted = np.zeros((size, size), bool)
    rows, columns = (slice(round(a * size), round(b * size)) for a, b in REGIONS[name])
    painted[rows, columns] = True
    return painted


def _square(path: str, size: int, mode: str) -> np.ndarray:
    """An image file as uint8 [size, size(, 3)]: its centre square, resized. What is transparent is white in an image,
    as in the emoji, and black in a mask."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no image file {path}; a mask may also be one of {', '.join(REGIONS)}")
    try:
        with Image.open(path) as opened:
            flat = opened.convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path} is not an image that can be read ({e})") from None
    flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white" if mode == "RGB" else "black"), flat)
    edge = min(flat.size)
    left, top = ((side - edge) // 2 for side in flat.size)
    box = (left, top, left + edge, top + edge)
    return np.array(flat.convert(mode).resize((size, size), Image.BICUBIC, box))


def given_order(order: str, generator: Any, images: int, device: torch.device) -> tuple[Tensor, str]:
    """Orders [1 | images, N] by the name of a scan order or from an .npy file, and a hash of them.

    Raises ValueError where the unit's order is fixed or an order is no permutation of the slots.
    """
    spec = generator.spec
    if not generator.any_order:
        free = [name for name in fitting(spec) if kind_of(name).any_order]
        raise ValueError(f"unit={generator.unit.name} decodes in a fixed order; units of any order: {', '.join(free)}")
    if order in ORDERS and len(spec.grids) == 1 and len(spec.grids[0]) == 2:
        slots = ORDERS[order](*spec.grids[0])[None].to(device)
    elif order.endswith(".npy") and Path(order).is_file():
        slots = torch.from_numpy(_orders(order)).to(device)
    else:
        raise ValueError(f"order='{order}' is no .npy file and, for codes on a plane, none of {', '.join(ORDERS)}")
    everyone = torch.arange(spec.length, device=device).expand(len(slots), -1)
    if len(slots) not in (1, images) or not torch.equal(slots.sort(dim=1).values, everyone):
        raise ValueError(
            f"order={order} must hold one permutation of 0..{spec.length - 1}, or one for each of {images} images; "
            f"got an array of shape {tuple(slots.shape)}"
        )
    return slots, sha256(slots.cpu().numpy().tobytes()).hexdigest()


def _orders(path: str) -> np.ndarray:
    try:
        orders = np.atleast_2d(np.load(path))
    except (OSError, ValueError, EOFError) as e:
        raise ValueError(f"{path} is not an .npy array that can be read ({e})") from None
    if orders.dtype.kind not in "iu":
        raise ValueError(f"{path} must hold whole numbers, got {orders.dtype}")
    return orders.astype(np.int64)
