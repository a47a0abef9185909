"""vqgan: a plane of codes by cosine similarity, LlamaGen's VQ-16 and VQ-8 (Sun et al., arXiv 2406.06525).

The published ones have ch 128, z 256, 16,384 codes of 8 channels and mult 1, 1, 2, 2, 4 (a code for 16 x 16 pixels) or
1, 2, 2, 4 (8 x 8); the defaults are for small images. Training here has neither their perceptual nor their adversarial
loss: a tokenizer trained here is blurrier than theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.tokenizers.network import pixel_loss
from pointillist.tokenizers.quantizers import Cosine, share_used
from pointillist.tokenizers.taming import grid_of, networks, widths_of


@dataclass
class Options:
    name: str = "vqgan"
    ch: int = 32
    mult: list[int] = field(default_factory=lambda: [1, 2, 2])  # width of each level in ch; each but the first halves
    blocks: int = 1
    z: int = 64  # channels of the network's output, before they are mapped to those of a code
    vocab: int = 1000
    channels: int = 8


class Tokenizer(nn.Module):
    """images [B, 3, S, S] in [-1, 1] <-> codes [B, N] int64 in raster order, N = (S / 2^(len(mult) - 1))^2.

    Raises ValueError for widths that are not multiples of 32, for an image size that the levels do not divide.
    """

    def __init__(self, options: Options, image_size: int) -> None:
        super().__init__()
        widths = widths_of(options.ch, options.mult, options.blocks)
        self.grid = grid_of(options.mult, image_size)
        self.quantizer = Cosine(options.vocab, options.channels)
        self.spec = CodeSpec(grids=(self.grid,), vocab=(options.vocab,), channels=options.channels)
        self.encoder, self.decoder = networks(widths, options.blocks, options.z, options.channels)

    @property
    def codebook(self) -> Tensor:
        """Unit vectors [V, C] of the codes: those the decoder sees, and by which codes are near each other.

        LANTERN's own code measures distances between the raw rows, which are `quantizer.rows` here; rows differ in
        length, so these are other neighbours.
        """
        return self.quantizer.codebook

    def encode(self, images: Tensor) -> Tensor:
        return self.quantizer.lookup(self._z(images)).flatten(1)

    def vectors(self, codes: Tensor) -> Tensor:
        """codes [B, N] -> [B, C, h, w]; `decoder` makes images of these that are not clamped."""
        if codes.ndim != 2 or codes.shape[1] != self.spec.length:
            raise ValueError(f"codes must be [B, {self.spec.length}], got {tuple(codes.shape)}")
        return self.quantizer.embed(codes.unflatten(1, self.grid)).movedim(-1, 1)

    def decode(self, codes: Tensor, noise: Tensor | None = None) -> Tensor:
        """images [B, 3, S, S] in [-1, 1]; noise is for decoders that draw, this one does not."""
        return self.decoder(self.vectors(codes)).clamp(-1, 1)

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        vectors, codes, quantised = self.quantizer(self._z(images))
        loss = pixel_loss(self.decoder(vectors.movedim(-1, 1)), images) + quantised
        return {"loss": loss, "quantised": quantised, "codes_used": share_used(codes, self.spec.vocab)}

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """First codebook from train images [n, 3, S, S], once before the first step; ours, LlamaGen draws at random."""
        self.quantizer.fit(self._z(images).flatten(0, 2))

    def _z(self, images: Tensor) -> Tensor:
        return self.encoder(images).movedim(1, -1)  # [B, C, h, w] -> [B, h, w, C]
