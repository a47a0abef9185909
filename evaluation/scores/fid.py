"""Frechet Inception distance (Heusel et al. 2017, arXiv 1706.08500): Gaussians of 2048 pooled Inception features."""

from __future__ import annotations

from dataclasses import dataclass

from pointillist.evaluation.features import MOMENTS, Features, Value
from pointillist.evaluation.frechet import frechet

NETWORK = "inception"
SAMPLES = {"pool": MOMENTS}
REFERENCE = {"pool": MOMENTS}
UNVERIFIED = {"fid": "frechet"}


@dataclass
class Options:
    """There is nothing to choose."""


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """The bias falls as 1 / N, so only numbers of the same N compare; `fid_infinity` takes it off."""
    return {"fid": Value(frechet(reference.moments("pool"), samples.moments("pool")).distance)}
