"""Batches of images for tokenizer training, each a pure function of (seed, step): exact resume needs no saved state."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pointillist.data.crops import Views, num_views, view
from pointillist.data.images import Images
from pointillist.data.order import draw

IN_MEMORY_BYTES = 512 * 2**20
READ_AHEAD = 2  # batches decoded while the model works on the present one


class ImageBatches:
    """`batch(step)` for a fixed (images, views, batch_size, seed).

    All views together up to 512 MB: each is decoded once, when first asked for, and kept. Beyond that: decoded by
    threads, read-ahead in step order. Neither changes what a batch holds. Not for use from several threads.
    """

    def __init__(self, images: Images, views: Views, batch_size: int, seed: int):
        if len(images) == 0:
            raise ValueError(f"{images.name} has no images to train on")
        self.images, self.views, self.batch_size, self.seed = images, views, batch_size, seed
        self.num_views = num_views(views)
        self.pool = ThreadPoolExecutor(num_threads())
        self.ahead: dict[int, list[Future]] = {}
        shape = (len(images), self.num_views, 3, views.size, views.size)
        self.kept = np.zeros(shape, np.uint8) if int(np.prod(shape)) <= IN_MEMORY_BYTES else None
        self.is_kept = np.zeros(shape[:2], bool)

    def batch(self, step: int) -> dict[str, Tensor]:
        """{"images": uint8 [B, 3, H, W], "labels": int64 [B], "index": int64 [B]}; endless, epoch after epoch."""
        index, k = draw(step, self.batch_size, len(self.images), self.num_views, self.seed)
        pixels = self._decode_ahead(step) if self.kept is None else self._kept(index, k)
        arrays = {"images": pixels, "labels": self.images.labels[index], "index": index}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _kept(self, index: np.ndarray, k: np.ndarray) -> np.ndarray:
        new = ~self.is_kept[index, k]
        if new.any():
            jobs = self._submit(index[new], k[new])
            self.kept[index[new], k[new]] = np.stack([job.result() for job in jobs])
            self.is_kept[index[new], k[new]] = True
        return self.kept[index, k]

    def _decode_ahead(self, step: int) -> np.ndarray:
        wanted = range(step, step + 1 + READ_AHEAD)
        for other in set(self.ahead) - set(wanted):  # after a jump to another step
            for job in self.ahead.pop(other):
                job.cancel()
        for s in wanted:
            if s not in self.ahead:
                self.ahead[s] = self._submit(*draw(s, self.batch_size, len(self.images), self.num_views, self.seed))
        return np.stack([job.result() for job in self.ahead.pop(step)])

    def _submit(self, index: np.ndarray, k: np.ndarray) -> list[Future]:
        return [
            self.pool.submit(pixels, self.images, self.views, int(i), int(v), self.seed)
            for i, v in zip(index, k, strict=True)
        ]


def num_threads() -> int:
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pixels(images: Images, views: Views, index: int, k: int, seed: int) -> np.ndarray:
    """View k of one image, uint8 [3, H, W]."""
    return view(images.read(index), views, k, seed, index).transpose(2, 0, 1)


def all_views(images: Images, views: Views, index: int, seed: int) -> np.ndarray:
    """All views of one image, uint8 [V, 3, H, W]; the file is decoded once."""
    image = images.read(index)
    return np.stack([view(image, views, k, seed, index).transpose(2, 0, 1) for k in range(num_views(views))])


def spread(n: int, limit: int | None = None) -> np.ndarray:
    """int64 [min(n, limit)]: rows at equal distances, so that data sorted by class stay balanced."""
    count = n if limit is None else min(n, limit)
    return np.arange(count) * n // max(count, 1)


def all_images(images: Images, views: Views, limit: int | None = None) -> Tensor:
    """uint8 [n, 3, H, W]: view 0 (plain centre) of all images, or of the rows `spread(len(images), limit)`."""
    rows = spread(len(images), limit)
    out = np.empty((len(rows), 3, views.size, views.size), np.uint8)
    with ThreadPoolExecutor(num_threads()) as pool:
        decoded = pool.map(lambda i: pixels(images, views, int(i), 0, 0), rows)
        for row, image in enumerate(tqdm(decoded, f"reading {images.name}", len(rows), delay=5)):
            out[row] = image
    return torch.from_numpy(out)
