"""Peak signal-to-noise ratio, image by image."""

from __future__ import annotations

import torch
from torch import Tensor

PEAK = 255


def psnr(images: Tensor, decoded: Tensor) -> Tensor:
    """Decibels, 10 log10(255^2 / mse), of uint8 images [b, 3, S, S]: float64 [b]; mse over all pixels and channels.

    An image that comes back exactly has an infinite one. No cap stands in for that, as any cap would be a number that
    was not measured: `summary.of_images` leaves such images out of the mean and counts them. Tokenizers' PSNR is the
    mean over images of this; that of the mean error, which older papers give, is lower, as bad images dominate it.
    """
    error = (images.double() - decoded.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(PEAK**2 / error)
