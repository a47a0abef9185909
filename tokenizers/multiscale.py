"""Codes of several scales, coarse to fine, that add up to one feature map (VAR, arXiv 2404.02905).

Each scale quantises what the coarser ones left over, all with one codebook. A next-scale generator reads sums of
coarser scales, so it needs this codebook and these convolutions: they are the `Lift`, built from the CodeSpec alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.tokenizers.network import pixel_loss
from pointillist.tokenizers.quantizers import nearest, share_used, starts

PHIS = 4  # convolutions that the scales share


class Lift(nn.Module):
    """Codes of all scales [B, N] -> feature maps: `f_hat` for the decoder, `inputs` for a next-scale generator.

    codebook  [V, C], shared by all scales
    phi       phi(x) = x / 2 + conv3x3(x) / 2 after the bicubic enlargement of a scale

    Raises ValueError for a spec that is not one book on two-dimensional grids, none wider or higher than the next.
    """

    def __init__(self, spec: CodeSpec) -> None:
        super().__init__()
        rising = all(len(a) == len(b) == 2 and a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(spec.grids))
        if len(spec.vocab) != 1 or len(spec.grids[0]) != 2 or not rising:
            raise ValueError(
                f"a pyramid needs one book and grids (h, w) from coarse to fine, got {len(spec.vocab)} books on "
                f"{spec.grids}; use a tokenizer like tokenizers/pyramid.py"
            )
        self.grids, self.ticks = spec.grids, ticks(len(spec.grids))
        self.register_buffer("codebook", torch.randn(spec.vocab[0], spec.channels))
        self.phi = nn.ModuleList(nn.Conv2d(spec.channels, spec.channels, 3, padding=1) for _ in range(PHIS))
        for conv in self.phi:  # phi starts as the identity: a scale is at first just its enlargement
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)

    def f_hat(self, codes: Tensor) -> Tensor:
        """Algorithm 2: codes [B, N] -> the sum over all scales [B, C, H, W]."""
        return sum(self.add(codes, k) for k in range(len(self.grids)))

    def inputs(self, codes: Tensor) -> Tensor:
        """codes [B, N] -> [B, N, C]: what a generator reads at each place, scales coarse to fine, raster inside.

        Scale k reads f_hat over the scales < k, averaged down to its own grid; scale 0 reads zeros. Codes of the
        scales >= k have no influence on it.
        """
        f_hat = self.codebook.new_zeros(len(codes), self.codebook.shape[1], *self.grids[-1])
        reads = [f_hat[:, :, : self.grids[0][0], : self.grids[0][1]]]
        for k, grid in enumerate(self.grids[1:]):
            f_hat = f_hat + self.add(codes, k)
            reads.append(F.interpolate(f_hat, size=grid, mode="area"))
        return torch.cat([x.flatten(2) for x in reads], 2).mT  # [B, C, N] -> [B, N, C]

    def add(self, codes: Tensor, k: int) -> Tensor:
        """h [B, C, H, W], what scale k of codes [B, N] adds to f_hat. Raises ValueError for another N."""
        sizes = [prod(grid) for grid in self.grids]
        if codes.ndim != 2 or codes.shape[1] != sum(sizes):
            raise ValueError(f"codes of a pyramid {self.grids} must be [B, {sum(sizes)}], got {tuple(codes.shape)}")
        return self.enlarge(codes.split(sizes, 1)[k].unflatten(1, self.grids[k]), k)

    def enlarge(self, codes: Tensor, k: int) -> Tensor:
        """codes [B, h, w] of scale k -> h [B, C, H, W] = phi_k(enlarged vectors)."""
        x = self.codebook[codes].movedim(-1, 1)
        if k < len(self.grids) - 1:
            x = F.interpolate(x, size=self.grids[-1], mode="bicubic")
        return self.smooth(x, self.ticks[k])

    def smooth(self, x: Tensor, phi: int) -> Tensor:
        """x [B, C, H, W] by one of the shared convolutions."""
        return 0.5 * x + 0.5 * self.phi[phi](x)


def ticks(scales: int) -> list[int]:
    """Which of the four phi each scale uses: the nearest of four ticks to k / (scales - 1).

    An odd number of scales has near-ties in the middle, which the published code decides in numpy's float64.
    """
    marks = np.linspace(1 / 3 / PHIS, 1 - 1 / 3 / PHIS, PHIS)
    return [int(np.argmin(np.abs(marks - k / max(scales - 1, 1)))) for k in range(scales)]


def quantise(
    lift: Lift, f: Tensor, lookup: Callable[[Tensor, Tensor], Tensor] = nearest
) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1: f [B, C, H, W] -> codes [B, N], f_hat after each scale [K, B, C, H, W], vectors z [B, N, C].

    lookup  (vectors [..., C], codebook [V, C]) -> indices [...]
    """
    f_hat, f_hats, codes, z = torch.zeros_like(f), [], [], []
    with torch.autocast(f.device.type, enabled=False):  # residuals of residuals do not survive bf16
        for k, grid in enumerate(lift.grids):
            vectors = shrink((f - f_hat).detach(), lift, k).flatten(2).mT  # [B, h * w, C]
            found = lookup(vectors, lift.codebook)
            f_hat = f_hat + lift.enlarge(found.unflatten(1, grid), k)
            f_hats.append(f_hat)
            codes.append(found)
            z.append(vectors)
    return torch.cat(codes, 1), torch.stack(f_hats), torch.cat(z, 1)


def shrink(f: Tensor, lift: Lift, k: int) -> Tensor:
    """f [B, C, H, W] averaged down to the grid of scale k; the last scale is f's own."""
    return f if k == len(lift.grids) - 1 else F.interpolate(f, size=lift.grids[k], mode="area")


def residual_loss(f: Tensor, f_hats: Tensor, commitment: float = 0.25) -> Tensor:
    """Equation 5 without its image terms, mean over scales: f [B, C, H, W], f_hats [K, B, C, H, W].

    The first term draws the encoder to its codes; the second trains phi, as the codebook has no gradient.
    """
    f = f.expand_as(f_hats)
    return commitment * F.mse_loss(f, f_hats.detach()) + F.mse_loss(f_hats, f.detach())


class Multiscale(nn.Module):
    """images [B, 3, S, S] in [-1, 1] <-> codes [B, N] int64, scales coarse to fine, raster order inside a scale.

    It lacks its networks: `encoder` images -> [B, C, H, W] and `decoder` back, not clamped, which a tokenizer adds.

    The codebook follows moving averages of the vectors it stands for, starts from data, and a code whose average count
    falls under `dead` restarts from the batch. Raises ValueError for sides that do not rise to the encoder's grid.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, grid: tuple[int, int], sides: list[int], vocab: int, channels: int) -> None:
        super().__init__()
        if not sides or sides != sorted(sides) or sides[0] < 1 or sides[-1] != grid[0]:
            raise ValueError(f"tokenizer.sides must rise from at least 1 to the grid's side {grid[0]}, got {sides}")
        if vocab < 2 or channels < 1:
            raise ValueError(f"tokenizer.vocab must be at least 2 and channels at least 1, got {vocab}, {channels}")
        grids = tuple((side, side) for side in sides)
        self.spec = CodeSpec(grids=grids, vocab=(vocab,), channels=channels)
        self.decay, self.commitment, self.dead = 0.99, 0.25, 0.5
        self.lift = Lift(self.spec)
        self.register_buffer("count", torch.ones(vocab))

    @property
    def codebook(self) -> Tensor:
        """Vectors [V, C] of the codes."""
        return self.lift.codebook

    def encode(self, images: Tensor) -> Tensor:
        return quantise(self.lift, self.encoder(images).float())[0]

    def decode(self, codes: Tensor, noise: Tensor | None = None) -> Tensor:
        """images [B, 3, S, S] in [-1, 1]; noise is for decoders that draw, this one does not."""
        return self.decoder(self.lift.f_hat(codes)).clamp(-1, 1)

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        f = self.encoder(images).float()
        codes, f_hats, z = quantise(self.lift, f)
        quantised = residual_loss(f, f_hats, self.commitment)
        decoded = self.decoder(f + (f_hats[-1] - f).detach())
        if self.training:
            self._update(z.flatten(0, 1), codes.flatten())
        loss = pixel_loss(decoded, images) + quantised
        return {"loss": loss, "quantised": quantised, "codes_used": share_used(codes, self.spec.vocab)}

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """First codebook from train images [n, 3, S, S]: vectors of the pyramid as it is before quantisation."""
        f, z = self.encoder(images).float(), []
        for k in range(len(self.spec.grids)):
            part = shrink(f, self.lift, k)
            z.append(part.flatten(2).mT.flatten(0, 1))
            f = f - F.interpolate(part, size=self.spec.grids[-1], mode="bicubic")
        self.lift.codebook.copy_(starts(torch.cat(z), self.spec.vocab[0]))
        self.count.fill_(1.0)

    @torch.no_grad()
    def _update(self, z: Tensor, codes: Tensor) -> None:
        """Running mean of the vectors [n, C] of each code, weighted by how many there were."""
        codebook = self.lift.codebook
        count = torch.bincount(codes, minlength=len(codebook)).to(self.count)
        self.count.lerp_(count, 1 - self.decay)
        total = torch.zeros_like(codebook).index_add_(0, codes, z)
        step = (1 - self.decay) / self.count.clamp_min(1e-6)
        codebook += step[:, None] * (total - count[:, None] * codebook)
        dead = self.count < self.dead
        fresh = z[torch.randint(len(z), (len(codebook),), device=z.device)]
        codebook.copy_(torch.where(dead[:, None], fresh, codebook))
        self.count.masked_fill_(dead, 1.0)
