"""Structural similarity (Wang et al., IEEE TIP 13(4), 2004), image by image."""

from __future__ import annotations

import torch
from torch import Tensor

TAPS, SIGMA = 11, 1.5  # of the Gaussian window
K1, K2, RANGE = 0.01, 0.03, 255
CARD = {"window": f"Gaussian {TAPS}x{TAPS}, sigma {SIGMA}", "K": [K1, K2], "range": RANGE, "region": "valid",
        "channels": "each, then their mean"}  # fmt: skip


def ssim(images: Tensor, decoded: Tensor) -> Tensor:
    """Equation 13 of uint8 images [b, 3, S, S]: float64 [b] in [-1, 1]; mean over channels and all whole windows.

    This is the authors' window and constants, as in tf.image.ssim. Others differ: scikit-image's default, which
    LlamaGen uses, is a uniform 7x7 window with the unbiased covariance, and LlamaGen gives it a range of 2 for images
    in [0, 1], which raises it by about .003; papers on super-resolution look at luma alone. Raises ValueError for
    images smaller than the window.
    """
    size = images.shape[-1]
    if size < TAPS:
        raise ValueError(f"ssim looks through a window of {TAPS} pixels, the images have {size}; leave it out")
    window, x, y = band(size), images.double(), decoded.double()

    def mean(z: Tensor) -> Tensor:
        return window @ z @ window.T  # [b, 3, S, S] -> [b, 3, S - 10, S - 10]

    mu_x, mu_y = mean(x), mean(y)
    product, squares = mu_x * mu_y, mu_x.square() + mu_y.square()
    covariance, variances = mean(x * y) - product, mean(x.square() + y.square()) - squares
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return similarity.mean((1, 2, 3))


def band(size: int) -> Tensor:
    """float64 [size - 10, size]: row i is the window over pixels i..i+10, so that `band @ z` is the moving average."""
    offset = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    taps = torch.exp(-offset.square() / (2 * SIGMA**2))
    rows = torch.zeros(size - TAPS + 1, size, dtype=torch.float64)
    for i, row in enumerate(rows):
        row[i : i + TAPS] = taps / taps.sum()
    return rows
