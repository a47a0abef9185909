"""The small convolutional network that the trained tokenizers share: one level a width, each halving the image.

Widths (64, 128) turn 32x32 pixels into an 8x8 grid. PixelUnshuffle and PixelShuffle change the size, residual blocks
with group norm do the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOGETHER = 2**20  # values of the widest layer that one pass of a CPU makes


def grid_of(widths: list[int], image_size: int) -> tuple[int, int]:
    """(height, width) of the encoder's output. Raises ValueError for an image size that the levels do not divide."""
    factor = 2 ** len(widths)
    if image_size % factor or min(widths) % 16:
        raise ValueError(
            f"tokenizer.widths {widths} need multiples of 16 and an image size divisible by {factor}, got {image_size}"
        )
    return image_size // factor, image_size // factor


def in_parts(network: Callable[[Tensor], Tensor], x: Tensor, values: int) -> Tensor:
    """network(x) of images or vectors x [B, C, h, w], none of which it lets touch another.

    Without gradients a CPU takes as many of x at a time as its cache holds, channels last: whole batches of large
    images cost it 1.2 (fp32) to 1.7 times (bf16) as much an image, and memory. values: of an image's widest layer.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return network(x)
    parts = x.contiguous(memory_format=torch.channels_last).split(max(TOGETHER // values, 1))
    return torch.cat([network(part) for part in parts]).contiguous()


class Encoder(nn.Sequential):
    """images [B, 3, S, S] -> [B, channels, S / 2^len(widths), S / 2^len(widths)], float32; `blocks` residual blocks a
    level."""

    def __init__(self, widths: list[int], blocks: int, channels: int) -> None:
        down: list[nn.Module] = []
        for before, width in zip([3, *widths], widths, strict=False):
            down += [nn.PixelUnshuffle(2), nn.Conv2d(4 * before, width, 3, padding=1)]
            down += [Residual(width) for _ in range(blocks)]
        super().__init__(*down, Norm(widths[-1]), nn.Conv2d(widths[-1], channels, 1))
        self.values = _widest(widths)

    def forward(self, images: Tensor) -> Tensor:
        values = int(self.values * images.shape[-1] ** 2)
        return in_parts(super().forward, images.to(self[1].weight.dtype), values).float()


class Decoder(nn.Sequential):
    """[B, channels, h, w] -> images [B, 3, S, S], float32 and not clamped: the encoder's mirror."""

    def __init__(self, widths: list[int], blocks: int, channels: int) -> None:
        up: list[nn.Module] = [nn.Conv2d(channels, widths[-1], 3, padding=1)]
        for width, after in zip(widths[::-1], [*widths[-2::-1], 3], strict=True):
            up += [Residual(width) for _ in range(blocks)]
            up += [
                *([Norm(width)] if after == 3 else []),
                nn.Conv2d(width, 4 * after, 3, padding=1),
                nn.PixelShuffle(2),
            ]
        super().__init__(*up)
        self.values, self.factor = _widest(widths), 2 ** len(widths)

    def forward(self, x: Tensor) -> Tensor:
        values = int(self.values * (x.shape[-1] * self.factor) ** 2)
        return in_parts(super().forward, x.to(self[0].weight.dtype), values).float()


def _widest(widths: list[int]) -> float:
    """Values of the widest layer for each pixel of the image."""
    return max(width / 4**level for level, width in enumerate(widths, 1))


class Norm(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.GroupNorm(width // 16, width), nn.SiLU())


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Norm(width), nn.Conv2d(width, width, 3, padding=1), Norm(width), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def pixel_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """L1 + L2 on [-1, 1] pixels; at this size an adversarial loss needs more steps than the rest of the training."""
    return F.l1_loss(decoded, images) + F.mse_loss(decoded, images)
