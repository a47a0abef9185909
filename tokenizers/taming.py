"""The convolutional network of taming-transformers (Esser et al., arXiv 2012.09841), which LlamaGen and VAR share.

diffusers' VQModel is the same network; its encoder and decoder are taken, its quantiser is not. Residual blocks with
group norm; attention, one head over all places, after every block of the coarsest level and in the middle; between
levels a strided convolution, padded at the right and at the bottom alone, and nearest-neighbour enlargement. The
decoder has one block a level more than the encoder.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from types import ModuleType

from torch import Tensor, nn

from pointillist.tokenizers.network import in_parts

GROUPS = 32  # of every group norm, as published


class Encoder(nn.Sequential):
    """images [B, 3, S, S] -> [B, C, h, w], float32; h = w = S / 2^(levels - 1)."""

    def __init__(self, network: nn.Module, quant_conv: nn.Conv2d) -> None:
        super().__init__(OrderedDict(network=network, quant_conv=quant_conv))

    def forward(self, images: Tensor) -> Tensor:
        values = self.network.conv_in.out_channels * images.shape[-1] ** 2
        return in_parts(super().forward, images.to(self.quant_conv.weight.dtype), values).float()


class Decoder(nn.Sequential):
    """[B, C, h, w] -> images [B, 3, S, S], float32 and not clamped."""

    def __init__(self, post_quant_conv: nn.Conv2d, network: nn.Module) -> None:
        super().__init__(OrderedDict(post_quant_conv=post_quant_conv, network=network))

    def forward(self, vectors: Tensor) -> Tensor:
        side = vectors.shape[-1] * 2 ** (len(self.network.up_blocks) - 1)  # of the images
        values = self.network.conv_out.in_channels * side**2
        return in_parts(super().forward, vectors.to(self.post_quant_conv.weight.dtype), values).float()


def networks(widths: list[int], blocks: int, z: int, channels: int, kernel: int = 1) -> tuple[Encoder, Decoder]:
    """
    widths    of the levels, fine to coarse, multiples of 32
    blocks    residual blocks of a level of the encoder
    z         channels between the network and the convolutions next to the quantiser
    channels  C, what the quantiser sees
    kernel    of these two convolutions, odd
    """
    vae, last = _vae(), len(widths) - 1
    sizes = {"block_out_channels": tuple(widths), "layers_per_block": blocks, "norm_num_groups": GROUPS}
    down = ("DownEncoderBlock2D",) * last + ("AttnDownEncoderBlock2D",)
    up = ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * last
    encoder = vae.Encoder(in_channels=3, out_channels=z, down_block_types=down, double_z=False, **sizes)
    decoder = vae.Decoder(in_channels=z, out_channels=3, up_block_types=up, **sizes)
    inwards = nn.Conv2d(z, channels, kernel, padding=kernel // 2)
    outwards = nn.Conv2d(channels, z, kernel, padding=kernel // 2)
    return Encoder(encoder, inwards), Decoder(outwards, decoder)


def _vae() -> ModuleType:
    """diffusers' file of both networks, without the packages that diffusers would import beside it: xformers warns on
    every start where its build is not torch's, and takes seconds."""
    from diffusers.utils import import_utils

    if "diffusers.models" not in sys.modules:
        import_utils._xformers_available = False
    from diffusers.models.autoencoders import vae

    return vae


def widths_of(ch: int, mult: list[int], blocks: int) -> list[int]:
    """Widths of the levels, fine to coarse. Raises ValueError for no level, no block or widths of other multiples."""
    if not mult or blocks < 1 or any(ch * m < GROUPS or ch * m % GROUPS for m in mult):
        raise ValueError(
            f"tokenizer.mult must name at least one level with ch * mult a multiple of {GROUPS}, and blocks must be at "
            f"least 1; got ch={ch} mult={mult} blocks={blocks}"
        )
    return [ch * m for m in mult]


def grid_of(mult: list[int], image_size: int) -> tuple[int, int]:
    """(height, width) of the encoder's output. Raises ValueError for an image size that the levels do not divide."""
    factor = 2 ** (len(mult) - 1)
    if image_size < factor or image_size % factor:
        raise ValueError(f"tokenizer.mult {mult} needs an image size divisible by {factor}, got {image_size}")
    return image_size // factor, image_size // factor
