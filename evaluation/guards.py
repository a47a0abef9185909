"""Named warnings about samples that make a score mean less than it seems to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

GREY_MORE = 0.1  # share of grey images beyond the reference's own that is worth a warning


@dataclass
class Census:
    """What is counted while images stream by: constant and grey ones, and a digest of each."""

    count: int = 0
    constant: int = 0
    grey: int = 0
    digests: list[bytes] = field(default_factory=list)

    def add(self, images: Tensor) -> None:
        """uint8 [b, 3, S, S]."""
        self.count += len(images)
        pixels = images.flatten(1)
        self.constant += int((pixels == pixels[:, :1]).all(1).sum())
        self.grey += int((images == images[:, :1]).flatten(1).all(1).sum())
        self.digests += digests(images)

    @property
    def content(self) -> str:
        """sha256 over the digests in order: the identity of the set, however it was stored."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()


def digests(images: Tensor) -> list[bytes]:
    """sha256 of each image's [H, W, 3] bytes, uint8 [b, 3, H, W]: equal for an npz and a folder of PNG."""
    return [hashlib.sha256(pixels.tobytes()).digest() for pixels in images.permute(0, 2, 3, 1).contiguous().numpy()]


def find_warnings(samples: Census, train: Census, known: set[bytes], labels: np.ndarray | None, dim: int) -> dict:
    """Name -> one line. `known` holds the digests of the training images, plain and mirrored; `dim` is the width of
    the features; labels int64 [N] or None."""
    n, enough = samples.count, 20 * dim
    duplicates = n - len(set(samples.digests))
    identical = sum(digest in known for digest in samples.digests)
    grey, usual = samples.grey / n, train.grey / train.count
    biased = f"are few for {dim} features: below {enough} the distance comes out too large"
    checks = {
        "few_samples": (n < enough, f"{n} samples {biased}"),
        "few_reference_images": (train.count < enough, f"{train.count} reference images {biased}"),
        "class_sorted": (is_sorted(labels), "the samples are sorted by class; a score over a part sees few classes"),
        "constant_images": (samples.constant > 0, f"{samples.constant} of {n} samples are one flat colour"),
        "grey_images": (grey > usual + GREY_MORE, f"{grey:.0%} of the samples are grey, {usual:.0%} of the reference"),
        "duplicates": (duplicates > 0, f"{duplicates} of {n} samples repeat another one exactly"),
        "identical_to_reference": (identical > 0, f"{identical} of {n} samples are training images, pixel for pixel"),
    }
    return {name: line for name, (found, line) in checks.items() if found}


def is_sorted(labels: np.ndarray | None) -> bool:
    """Whether two or more classes come one after the other; 4 labels or fewer are sorted by chance too often."""
    return labels is not None and len(labels) > 4 and bool((np.diff(labels) >= 0).all()) and labels[0] != labels[-1]
