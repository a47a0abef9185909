"""Frechet distance in DINOv2 features (Stein et al. 2023, arXiv 2306.04675): ViT-L/14, 1024 numbers of the class
token, which follow human judgement better than Inception's do."""

from __future__ import annotations

from dataclasses import dataclass

from pointillist.evaluation.features import MOMENTS, Features, Value
from pointillist.evaluation.frechet import frechet

NETWORK = "dinov2"
SAMPLES = {"cls": MOMENTS}
REFERENCE = {"cls": MOMENTS}
UNVERIFIED = {"fd_dinov2": "dinov2_frechet"}


@dataclass
class Options:
    """There is nothing to choose."""


def score(samples: Features, reference: Features, options: Options) -> dict[str, Value]:
    """The same formula as FID."""
    return {"fd_dinov2": Value(frechet(reference.moments("cls"), samples.moments("cls")).distance)}
