"""The reference of a score: the train split that samples are compared with, and the held-out split as the yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.configs.options import find
from pointillist.data.crops import Views
from pointillist.data.images import Images
from pointillist.data.loader import all_images, spread

LIMIT = 20_000  # images of a split, at equal distances; they are held in memory


@dataclass(frozen=True, eq=False)
class Reference:
    """Plain (centre-cropped) pixels of both splits at the samples' size.

    name         of the data set, "emoji"
    classes      names of the labels
    fingerprint  of the train split
    train, heldout                 uint8 [n, 3, size, size]
    train_labels, heldout_labels   int64 [n]
    """

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    train: Tensor
    train_labels: Tensor
    heldout: Tensor
    heldout_labels: Tensor

    @property
    def size(self) -> int:
        return self.train.shape[-1]


def open_reference(options: Any, size: int) -> Reference:
    """Read both splits of a data part (its Options) at size x size pixels; its ValueErrors pass through."""
    train, heldout = (find("data", options.name).open_images(options, split) for split in ("train", "heldout"))
    views = Views(size=size, flip=False)
    return Reference(
        name=train.name.split("/")[0],
        classes=train.classes,
        fingerprint=train.fingerprint,
        train=all_images(train, views, LIMIT),
        train_labels=_labels(train),
        heldout=all_images(heldout, views, LIMIT),
        heldout_labels=_labels(heldout),
    )


def _labels(images: Images) -> Tensor:
    return torch.from_numpy(images.labels[spread(len(images), LIMIT)])


def with_mirrored(images: Tensor) -> Tensor:
    """[n, 3, S, S] -> [2n, 3, S, S]: generators are trained on both."""
    return torch.cat([images, images.flip(3)])
