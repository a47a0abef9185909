"""conv: a small convolutional autoencoder with discrete codes, trained from scratch by train.py.

One level a width, each halving the image: widths (64, 128) turn 32x32 pixels into 8x8 codes. The loss is L1 + L2 on
[-1, 1] pixels; at this size an adversarial loss needs more steps than the rest of the training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.tokenizers.quantizers import FSQ, VQ


@dataclass
class Options:
    name: str = "conv"
    widths: list[int] = field(default_factory=lambda: [64, 128])
    blocks: int = 2
    quantizer: Literal["fsq", "vq"] = "fsq"
    levels: list[int] = field(default_factory=lambda: [8, 5, 5, 5])  # fsq
    vocab: int = 1000  # vq
    channels: int = 8  # vq


class Tokenizer(nn.Module):
    """images [B, 3, S, S] in [-1, 1] <-> codes [B, (S / 2^len(widths))^2] int64 in raster order.

    Raises ValueError for an image size that the levels do not divide.
    """

    def __init__(self, options: Options, image_size: int) -> None:
        super().__init__()
        factor = 2 ** len(options.widths)
        if image_size % factor or min(options.widths) % 16:
            raise ValueError(
                f"tokenizer.widths {options.widths} need multiples of 16 and an image size divisible by {factor}, "
                f"got {image_size}"
            )
        self.quantizer = FSQ(options.levels) if options.quantizer == "fsq" else VQ(options.vocab, options.channels)
        self.grid = (image_size // factor, image_size // factor)
        self.spec = CodeSpec(grids=(self.grid,), vocab=(self.quantizer.vocab,), channels=self.quantizer.channels)
        widths, blocks = options.widths, options.blocks
        down: list[nn.Module] = []
        for before, width in zip([3, *widths], widths, strict=False):
            down += [nn.PixelUnshuffle(2), nn.Conv2d(4 * before, width, 3, padding=1)]
            down += [Residual(width) for _ in range(blocks)]
        self.encoder = nn.Sequential(*down, Norm(widths[-1]), nn.Conv2d(widths[-1], self.spec.channels, 1))
        up: list[nn.Module] = [nn.Conv2d(self.spec.channels, widths[-1], 3, padding=1)]
        for width, after in zip(widths[::-1], [*widths[-2::-1], 3], strict=True):
            up += [Residual(width) for _ in range(blocks)]
            up += [
                *([Norm(width)] if after == 3 else []),
                nn.Conv2d(width, 4 * after, 3, padding=1),
                nn.PixelShuffle(2),
            ]
        self.decoder = nn.Sequential(*up)

    def encode(self, images: Tensor) -> Tensor:
        return self.quantizer(self._vectors(images))[1].flatten(1)

    def decode(self, codes: Tensor, noise: Tensor | None = None) -> Tensor:
        """images [B, 3, S, S] in [-1, 1]; noise is for decoders that draw, this one does not."""
        return self._images(self.quantizer.embed(codes.unflatten(1, self.grid))).clamp(-1, 1)

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        vectors, codes, auxiliary = self.quantizer(self._vectors(images))
        decoded = self._images(vectors)
        loss = F.l1_loss(decoded, images) + F.mse_loss(decoded, images) + auxiliary
        return {"loss": loss, "codes_used": codes.unique().numel() / torch.tensor(float(self.spec.vocab[0]))}

    def fit(self, images: Tensor) -> None:
        """Data-dependent initialisation from train images [n, 3, S, S], once before the first step."""
        if isinstance(self.quantizer, VQ):
            with torch.no_grad():
                self.quantizer.fit(self._vectors(images).flatten(0, 2))

    def _vectors(self, images: Tensor) -> Tensor:
        return self.encoder(images).movedim(1, -1)  # [B, C, h, w] -> [B, h, w, C]

    def _images(self, vectors: Tensor) -> Tensor:
        weight = self.decoder[0].weight
        return self.decoder(vectors.to(weight.dtype).movedim(-1, 1)).float()


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
