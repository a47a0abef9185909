"""vqvae: codes of several scales on the network of taming-transformers, VAR's tokenizer (arXiv 2404.02905).

Its quantiser is that of tokenizers/pyramid.py. The published one has ch 160, mult 1, 1, 2, 2, 4, two blocks a level, z
and channels 32, 4,096 codes, and sides 1, 2, 3, 4, 5, 6, 8, 10, 13, 16 for images of 256 pixels or
1, 2, 3, 4, 6, 9, 13, 18, 24, 32 for 512; the defaults are for small images. How it was trained is not published.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pointillist.tokenizers.multiscale import Lift, Multiscale
from pointillist.tokenizers.taming import grid_of, networks, widths_of

__all__ = ["Lift", "Options", "Tokenizer"]


@dataclass
class Options:
    name: str = "vqvae"
    ch: int = 32
    mult: list[int] = field(default_factory=lambda: [1, 2, 2])  # width of each level in ch; each but the first halves
    blocks: int = 1
    z: int = 8  # channels of the network's output, before they are mapped to those of a code
    sides: list[int] = field(default_factory=lambda: [1, 2, 4, 8])  # of the scales; the last is the encoder's grid
    vocab: int = 1000
    channels: int = 8


class Tokenizer(Multiscale):
    """images [B, 3, S, S] in [-1, 1] <-> codes [B, N] int64, scales coarse to fine, raster order inside a scale."""

    def __init__(self, options: Options, image_size: int) -> None:
        widths = widths_of(options.ch, options.mult, options.blocks)
        super().__init__(grid_of(options.mult, image_size), options.sides, options.vocab, options.channels)
        self.encoder, self.decoder = networks(widths, options.blocks, options.z, options.channels, kernel=3)
