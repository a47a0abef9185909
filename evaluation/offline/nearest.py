"""Memorisation diagnostics in pixel space: how near do samples come to the training images, mirrored ones included?

A Frechet distance rewards copying (the training set itself scores 0), so these two numbers stand beside it. They find
pixel copies, not copied ideas.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist.data.images import to_float

NEIGHBOURS = 50
# Carlini et al. 2023 (arXiv 2301.13188, section 5.1) call a copy what is nearer than alpha = .5 of the mean distance to
# its 50 nearest. On the emoji (held-out images / copies with noise of 2 % / of 5 %): alpha .5: 8 / 100 / 100 % are
# called copies, .4: 4 / 100 / 99 %, .33: 4 / 100 / 97 %, .25: 4 / 100 / 82 %. The 4 % are true near twins.
ALPHA = 0.4
LARGEST = 32  # pixels; larger images are averaged down to this


@dataclass(frozen=True, eq=False)
class Nearness:
    """Of N images: root-mean-square pixel distance to the nearest training image (0..2), and that over ALPHA x the
    mean of the nearest 50; both float32 [N]."""

    distance: Tensor
    ratio: Tensor

    @property
    def median(self) -> float:
        return float(self.distance.median())

    @property
    def copy_rate(self) -> float:
        """Share of copies, 0..1."""
        return float((self.ratio < 1).double().mean())

    @classmethod
    def join(cls, parts: list[Nearness]) -> Nearness:
        return cls(torch.cat([p.distance for p in parts]), torch.cat([p.ratio for p in parts]))


class NearestTrain:
    """Distances of images to a train split, uint8 [n, 3, S, S]."""

    def __init__(self, train: Tensor):
        self.train = torch.cat([_vectors(part) for part in train.split(256)])  # [n, D]
        self.squared = self.train.square().sum(1)

    def __call__(self, images: Tensor, chunk: int = 256) -> Nearness:
        """uint8 [N, 3, S, S] of any N."""
        return Nearness.join([self._measure(part) for part in images.split(chunk)])

    def _measure(self, images: Tensor) -> Nearness:
        # Mirroring the query instead of the training images gives the same distances at half the memory.
        squared = torch.minimum(self._squared(_vectors(images)), self._squared(_vectors(images.flip(3))))
        distance = (squared.clamp(min=0) / self.train.shape[1]).sqrt()
        nearest = distance.topk(min(NEIGHBOURS, len(self.train)), dim=1, largest=False).values  # [B, 50]
        return Nearness(nearest[:, 0], nearest[:, 0] / (ALPHA * nearest.mean(1)).clamp(min=1e-6))

    def _squared(self, x: Tensor) -> Tensor:
        return x.square().sum(1)[:, None] - 2 * x @ self.train.T + self.squared  # [B, n]


def _vectors(images: Tensor) -> Tensor:
    x = to_float(images)
    return (F.adaptive_avg_pool2d(x, LARGEST) if x.shape[-1] > LARGEST else x).flatten(1)
