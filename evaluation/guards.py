"""Named warnings about images that make a score mean less than it seems to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DIGEST = 16  # bytes
CONSTANT, GREY = 1, 2  # flags of an image: one colour; no colour
GREY_MORE = 0.1  # share of grey images beyond the reference's own that is worth a warning
SORTED_MORE = 0.1  # likewise: share of neighbours of one class beyond what a random order has


def digests(images: Tensor) -> np.ndarray:
    """blake2 of each image's [H, W, 3] bytes, uint8 [b, 3, H, W] -> uint8 [b, 16]; equal for an npz and a PNG."""
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    found = [hashlib.blake2b(p.tobytes(), digest_size=DIGEST).digest() for p in pixels]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, DIGEST)


def oddities(images: Tensor) -> np.ndarray:
    """uint8 [b, 3, H, W] -> uint8 [b], CONSTANT and GREY added up."""
    pixels = images.flatten(1)
    constant, grey = (pixels == pixels[:, :1]).all(1), (images == images[:, :1]).flatten(1).all(1)
    return (CONSTANT * constant + GREY * grey).to(torch.uint8).numpy()


@dataclass(frozen=True, eq=False)
class Census:
    """What is known of each of N images: digest uint8 [N, 16], flags uint8 [N]."""

    digest: np.ndarray
    flags: np.ndarray

    @classmethod
    def of(cls, images: Tensor) -> Census:
        """uint8 [N, 3, S, S]."""
        return cls(digests(images), oddities(images))

    @classmethod
    def join(cls, parts: list[Census]) -> Census:
        return cls(np.concatenate([p.digest for p in parts]), np.concatenate([p.flags for p in parts]))

    def __len__(self) -> int:
        return len(self.flags)

    @property
    def content(self) -> str:
        """sha256 hex over the digests in order: the identity of the set, however it was stored."""
        return hashlib.sha256(np.ascontiguousarray(self.digest).tobytes()).hexdigest()

    def share(self, flag: int) -> float:
        """Of the images that have the flag, 0..1."""
        return float(((self.flags & flag) > 0).mean())

    def rows(self) -> list[bytes]:
        """The digests, to be compared."""
        return [row.tobytes() for row in np.ascontiguousarray(self.digest)]


def find_warnings(samples: Census, reference: Census | None, labels: np.ndarray | None, usual_grey: float) -> dict:
    """Name -> one line: what is odd about samples, whatever the score.

    reference    images that the samples should not repeat, if they are at hand
    labels       int64 [N], or None
    usual_grey   share of grey images that is normal
    """
    n = len(samples)
    constant, grey = round(n * samples.share(CONSTANT)), samples.share(GREY)
    rows = samples.rows()
    known = set(reference.rows()) if reference else set()
    identical = sum(row in known for row in rows)
    checks = {
        "class_sorted": (is_sorted(labels), "images of one class lie together: an inception score of consecutive "
                         "splits comes out far too small; shuffle, or take inception_score.rule=torch_fidelity"),
        "constant_images": (constant > 0, f"{constant} of {n} samples are one flat colour"),
        "grey_images": (grey > usual_grey + GREY_MORE, f"{grey:.0%} of the samples are grey, {usual_grey:.0%} usually"),
        "identical_to_reference": (identical > 0, f"{identical} of {n} samples are reference images, pixel for pixel"),
    }  # fmt: skip
    found = {name: line for name, (is_so, line) in checks.items() if is_so}
    repeated = n - len(set(rows))
    return found | ({"duplicates": duplicates(rows, labels)} if repeated else {})


def duplicates(rows: list[bytes], labels: np.ndarray | None) -> str:
    """One line on images that repeat another one exactly."""
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row, []).append(i)
    repeated = [g for g in groups.values() if len(g) > 1]
    a, b = repeated[0][:2]
    line = f"{len(rows) - len(groups)} of {len(rows)} samples repeat another one exactly (numbers {a} and {b})"
    if labels is not None and all(len(set(labels[g])) == 1 for g in repeated):
        line += ", always one of their own class: was the random seed the same for every batch of a class?"
    return line


def is_sorted(labels: np.ndarray | None) -> bool:
    """Whether images of one class lie together: neighbours share a class more often than by chance. 4 labels or fewer
    are sorted by chance too often."""
    if labels is None or len(labels) <= 4:
        return False
    together = float((np.diff(labels) == 0).mean())
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    chance = float((shares**2).sum())
    noise = 4 * float(np.sqrt(chance * (1 - chance) / len(labels)))
    in_order = (np.diff(labels) >= 0).all() and labels[0] != labels[-1]
    return bool((in_order and together > 0) or together > chance + SORTED_MORE + noise)
