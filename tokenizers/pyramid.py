"""pyramid: codes of several scales on the small convolutional network, trained from scratch by train.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from pointillist.tokenizers.multiscale import Lift, Multiscale
from pointillist.tokenizers.network import Decoder, Encoder, grid_of

__all__ = ["Lift", "Options", "Tokenizer"]


@dataclass
class Options:
    name: str = "pyramid"
    widths: list[int] = field(default_factory=lambda: [64, 128])
    blocks: int = 2
    sides: list[int] = field(default_factory=lambda: [1, 2, 4, 8])  # of the scales; the last is the encoder's grid
    vocab: int = 1000
    channels: int = 8


class Tokenizer(Multiscale):
    """images [B, 3, S, S] in [-1, 1] <-> codes [B, N] int64, scales coarse to fine, raster order inside a scale.

    Raises ValueError for sizes that do not divide or sides that do not rise to the encoder's grid.
    """

    def __init__(self, options: Options, image_size: int) -> None:
        super().__init__(grid_of(options.widths, image_size), options.sides, options.vocab, options.channels)
        self.encoder = Encoder(options.widths, options.blocks, options.channels)
        self.decoder = Decoder(options.widths, options.blocks, options.channels)
