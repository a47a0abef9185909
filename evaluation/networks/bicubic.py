"""Bicubic resizing with antialias as Pillow does it, for networks whose authors resized that way."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def pillow_bicubic(images: Tensor, size: int) -> Tensor:
    """uint8 [b, 3, S, S] -> uint8 [b, 3, size, size] on the same device, one image at a time on the CPU.

    Pillow rounds and clips to 0..255 after each of its two passes; torch's interpolate does not on floats, and its own
    uint8 kernel rounds weights otherwise. On noise, 256 to 224 pixels, the float version is up to 25 grey levels away
    (1 on smooth images) and the uint8 kernel up to 2, in 1% of the values. The 1 to 2 ms an image are small beside a
    ViT-L. No resampling takes place where S = size.
    """
    if images.shape[-1] == size:
        return images
    rows = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    resized = [np.asarray(Image.fromarray(row).resize((size, size), Image.Resampling.BICUBIC)) for row in rows]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 0..255 -> float32, (x / 255 - mean) / std for each of 3 channels."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return (images.float() / 255 - mean) / std
