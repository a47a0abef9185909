"""Which images and which of their views make the batch of a step: a pure function of (seed, step).

Everything is drawn by a 64-bit hash instead of a generator with state, so that a resumed run needs no saved state and a
new numpy version cannot change the order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

ORDER, VIEW, CROP = 1, 2, 3  # first key of the hash: one stream for each kind of draw


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """uint64 hash of integer keys, broadcast against each other (splitmix64, chained)."""
    x = np.zeros(1, np.uint64)  # at least 1-d: numpy warns of overflow on scalars only, and here overflow is meant
    for key in keys:
        x = x + np.asarray(key).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x


def uniform(*keys: int | np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from the hash of the keys."""
    return (hash64(*keys) >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [n]: the order of an epoch (read-only; 10 MB for ImageNet)."""
    order = np.argsort(hash64(ORDER, seed, epoch, np.arange(n)), kind="stable")
    order.setflags(write=False)
    return order


def draw(step: int, batch_size: int, n: int, num_views: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(index, view), both int64 [B], of the batch of a step.

    Positions step * B .. step * B + B - 1 of an endless list of epochs, each a permutation of 0..n-1: every image comes
    exactly once in n consecutive positions, and a batch may straddle epochs.
    """
    assert n > 0 and batch_size > 0 and step >= 0, f"draw needs n, batch_size > 0, step >= 0: {n}, {batch_size}, {step}"
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epoch, place = position // n, position % n
    parts = [permutation(n, seed, int(e))[place[epoch == e]] for e in range(int(epoch[0]), int(epoch[-1]) + 1)]
    index = np.concatenate(parts)
    view = hash64(VIEW, seed, epoch, index) % np.uint64(num_views)
    return index, view.astype(np.int64)
