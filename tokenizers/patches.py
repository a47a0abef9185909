"""patches: k-means of pixel patches. The floor that a trained tokenizer must beat; a fixture without training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pointillist import CodeSpec


@dataclass
class Options:
    name: str = "patches"
    patch: int = 4
    vocab: int = 512


class Tokenizer(nn.Module):
    """images [B, 3, S, S] in [-1, 1] <-> codes [B, (S / patch)^2] int64: the nearest of `vocab` patches."""

    def __init__(self, options: Options, image_size: int) -> None:
        super().__init__()
        if image_size % options.patch:
            raise ValueError(f"tokenizer.patch must divide the image size {image_size}, got {options.patch}")
        self.grid, self.unshuffle = (image_size // options.patch,) * 2, nn.PixelUnshuffle(options.patch)
        self.shuffle = nn.PixelShuffle(options.patch)
        channels = 3 * options.patch**2
        self.spec = CodeSpec(grids=(self.grid,), vocab=(options.vocab,), channels=channels)
        self.register_buffer("codebook", torch.zeros(options.vocab, channels))

    def fit(self, images: Tensor, vectors: int = 40_000) -> None:
        """Ten Lloyd iterations on at most `vectors` patches of train images [n, 3, S, S], random start; seeded."""
        from scipy.cluster.vq import kmeans2

        patches = self._patches(images).flatten(0, 1)
        chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:vectors]
        centres, _ = kmeans2(patches[chosen].double().numpy(), len(self.codebook), iter=10, minit="points", seed=0)
        self.codebook.copy_(torch.from_numpy(centres))

    def encode(self, images: Tensor) -> Tensor:
        return torch.stack([torch.cdist(p, self.codebook).argmin(-1) for p in self._patches(images)])

    def decode(self, codes: Tensor, noise: Tensor | None = None) -> Tensor:
        pixels = self.codebook[codes].movedim(-1, 1).unflatten(2, self.grid)  # [B, N, C] -> [B, C, h, w]
        return self.shuffle(pixels).clamp(-1, 1)

    def _patches(self, images: Tensor) -> Tensor:
        return self.unshuffle(images).flatten(2).movedim(1, -1)  # [B, N, C]
