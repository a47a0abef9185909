"""Spatial Frechet distance (Nash et al. 2021, arXiv 2103.03841), as the ADM evaluator has it: Gaussians of the first 7
channels of a 17 x 17 Inception layer, 2023 numbers in the order height, width, channel."""

from __future__ import annotations

from dataclasses import dataclass

from pointillist.evaluation.features import MOMENTS, Features, Value
from pointillist.evaluation.frechet import frechet

NETWORK = "inception"
SAMPLES = {"spatial": MOMENTS}
REFERENCE = {"spatial": MOMENTS}
UNVERIFIED = {"sfid": "spatial_frechet"}


@dataclass
class Options:
    """There is nothing to choose."""


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """Sees arrangement that pooled features do not."""
    return {"sfid": Value(frechet(reference.moments("spatial"), samples.moments("spatial")).distance)}
