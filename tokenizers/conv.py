"""conv: a small convolutional autoencoder with discrete codes, trained from scratch by train.py.

With books > 1 the codes are folded, as product quantisation is used in ImageFolder (arXiv 2410.01756) and UniTok
(arXiv 2502.20321): the channels of a place fall into groups and each has its own quantiser, so one place holds several
codes that a generator can predict together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.tokenizers.network import Decoder, Encoder, grid_of, pixel_loss
from pointillist.tokenizers.quantizers import FSQ, VQ, Product, share_used


@dataclass
class Options:
    name: str = "conv"
    widths: list[int] = field(default_factory=lambda: [64, 128])
    blocks: int = 2
    quantizer: Literal["fsq", "vq"] = "fsq"
    levels: list[int] = field(default_factory=lambda: [8, 5, 5, 5])  # fsq, of one book
    vocab: int = 1000  # vq, of one book
    channels: int = 8  # vq, of one book
    books: int = 1  # codes of one place


class Tokenizer(nn.Module):
    """images [B, 3, S, S] in [-1, 1] <-> codes [B, N] or, with several books, [B, N, books]; int64 in raster order.

    N = (S / 2^len(widths))^2. Raises ValueError for an image size that the levels do not divide, for books < 1.
    """

    def __init__(self, options: Options, image_size: int) -> None:
        super().__init__()
        if options.books < 1:
            raise ValueError(f"tokenizer.books must be at least 1, got {options.books}")
        self.grid = grid_of(options.widths, image_size)
        books = [
            FSQ(options.levels) if options.quantizer == "fsq" else VQ(options.vocab, options.channels)
            for _ in range(options.books)
        ]
        self.quantizer = books[0] if len(books) == 1 else Product(books)
        channels, vocab = sum(book.channels for book in books), tuple(book.vocab for book in books)
        self.spec = CodeSpec(grids=(self.grid,), vocab=vocab, channels=channels)
        self.encoder = Encoder(options.widths, options.blocks, channels)
        self.decoder = Decoder(options.widths, options.blocks, channels)

    @property
    def codebook(self) -> Tensor | None:
        """Vectors [V, C] of the codes; None for several books."""
        if len(self.spec.vocab) > 1:
            return None
        return self.quantizer.embed(torch.arange(self.spec.vocab[0], device=next(self.parameters()).device))

    def encode(self, images: Tensor) -> Tensor:
        return self.quantizer(self._vectors(images))[1].flatten(1, 2)

    def decode(self, codes: Tensor, noise: Tensor | None = None) -> Tensor:
        """images [B, 3, S, S] in [-1, 1]; noise is for decoders that draw, this one does not."""
        return self._images(self.quantizer.embed(codes.unflatten(1, self.grid))).clamp(-1, 1)

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        vectors, codes, auxiliary = self.quantizer(self._vectors(images))
        loss = pixel_loss(self._images(vectors), images) + auxiliary
        return {"loss": loss, "codes_used": share_used(codes, self.spec.vocab)}

    def fit(self, images: Tensor) -> None:
        """Data-dependent initialisation from train images [n, 3, S, S], once before the first step."""
        with torch.no_grad():
            self.quantizer.fit(self._vectors(images).flatten(0, 2))

    def _vectors(self, images: Tensor) -> Tensor:
        return self.encoder(images).movedim(1, -1)  # [B, C, h, w] -> [B, h, w, C]

    def _images(self, vectors: Tensor) -> Tensor:
        return self.decoder(vectors.movedim(-1, 1))
