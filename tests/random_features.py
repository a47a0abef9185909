"""Made-up features, and sets of them as a score's file sees them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def draw(count, dim, seed=0, scale=1.0, shift=0.0):
    """float32 [count, dim], Gaussian."""
    return (shift + scale * np.random.RandomState(seed).standard_normal((count, dim))).astype(np.float32)


def held(bank):
    """Features whose every layer is this bank."""
    return SimpleNamespace(count=len(bank), bank=lambda layer: bank)
