"""The offline score: how far samples are from the held-out images' own distance to the training images.

A score sees an iterator of uint8 batches and labels; never codes, models or tokenizers. One pass, constant memory but
for 50 bytes an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pointillist import __version__
from pointillist.evaluation.card import label_policy
from pointillist.evaluation.frechet import Statistics, frechet
from pointillist.evaluation.guards import GREY, Census, find_warnings
from pointillist.evaluation.offline.classifier import DIM, SEED, Trained
from pointillist.evaluation.offline.nearest import ALPHA, NEIGHBOURS, NearestTrain, Nearness
from pointillist.evaluation.offline.reference import Reference, with_mirrored
from pointillist.evaluation.samples import Samples

SUITE = "pointillist-offline 1"
UNIT = "x1e-3 of reference variance"
NOTE = "These numbers compare runs on one reference with one feature network; they are not comparable with any paper."


@dataclass(frozen=True, eq=False)
class Measured:
    """What one pass over N images leaves: feature sums, predicted classes int64 [N], nearness, census."""

    features: Statistics
    predicted: Tensor
    nearness: Nearness
    census: Census


def score(samples: Samples, reference: Reference, trained: Trained) -> dict:
    """All offline numbers of `samples` as a JSON-ready dict: scores, classes, warnings, note, protocol.

    Raises ValueError for fewer than 2 images, labels beyond the reference's classes, and what reading them raises.
    """
    labels = samples.labels
    check(samples, reference)
    train_features, _ = trained.network.measure(with_mirrored(reference.train))
    train = Statistics.of(train_features)
    heldout_features = Statistics.of(trained.network.measure(with_mirrored(reference.heldout))[0])
    nearest = NearestTrain(reference.train)
    heldout = nearest(reference.heldout)
    measured = measure(samples, trained, nearest)
    key = f"toy_frechet/{reference.name}/{trained.sha256[:8]}"
    scores = {
        key: _entry(_relative(train, measured.features), UNIT, _relative(train, heldout_features)),
        "memorisation_ratio": _entry(_ratio(measured.nearness, heldout), "1 = like new images, 0 = copies", 1.0),
        "copy_rate": _entry(measured.nearness.copy_rate, "share of samples", heldout.copy_rate),
    }
    result = {"scores": scores, "classes": []}
    if labels is not None:
        _, guess = trained.network.measure(reference.heldout)
        result["classes"] = per_class(reference, labels, measured.predicted, guess)
        agreement = float((measured.predicted.numpy() == labels).mean())
        scores["class_agreement"] = _entry(agreement, "share of samples", trained.accuracy)
    plain, mirrored = Census.of(reference.train), Census.of(reference.train.flip(3))
    warnings = few(samples.count, len(reference.train))
    warnings |= find_warnings(measured.census, Census.join([plain, mirrored]), labels, plain.share(GREY))
    shift = 0.0 if labels is None else _relative(train, reweighted(train_features, reference.train_labels, labels))
    if shift > scores[key]["heldout"]:
        warnings["class_proportions"] = f"labels are not drawn as in the reference; that alone costs about {shift:.1f}"
    if samples.lossy:
        warnings["lossy_files"] = "the files were compressed with loss (JPEG, WebP), which moves the distances; use PNG"
    return {
        **result,
        "warnings": warnings,
        "note": NOTE,
        "protocol": card(reference, trained, samples),
        "samples": about(samples, measured, len(reference.classes)),
        "environment": {"pointillist": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def few(samples: int, reference: int) -> dict:
    """Named warnings where there are too few images for the width of the features."""
    enough = 20 * DIM
    biased = f"are few for {DIM} features: below {enough} the distance comes out too large"
    counts = {"few_samples": (samples, "samples"), "few_reference_images": (reference, "reference images")}
    return {name: f"{count} {what} {biased}" for name, (count, what) in counts.items() if count < enough}


def check(samples: Samples, reference: Reference) -> None:
    """ValueError when the samples cannot be scored against this reference."""
    assert samples.size == reference.size, f"samples {samples.size} px, reference {reference.size} px"
    if samples.count < 2:
        raise ValueError(f"{samples.source} holds {samples.count} image; a distance between distributions needs 2")
    if len(reference.heldout) < 2:
        raise ValueError(f"reference {reference.name} holds {len(reference.heldout)} held-out image; raise heldout=")
    labels = samples.labels
    if labels is not None and not (labels.min() >= 0 and labels.max() < len(reference.classes)):
        raise ValueError(
            f"labels of {samples.source} are {labels.min()}..{labels.max()} but reference {reference.name} has classes "
            f"0..{len(reference.classes) - 1}; choose the reference= that the samples were made for"
        )


def measure(samples: Samples, trained: Trained, nearest: NearestTrain) -> Measured:
    """The one pass."""
    census, predicted, nearness = [], [], []
    features = None
    with tqdm(total=samples.count, desc="scoring", unit="image", mininterval=1, delay=1) as progress:
        for images in samples.batches():
            batch, classes = trained.network.measure(images)
            sums = Statistics.of(batch)
            features = sums if features is None else features + sums
            predicted.append(classes)
            nearness.append(nearest(images))
            census.append(Census.of(images))
            progress.update(len(images))
    assert features is not None and features.count == samples.count, "batches() yields `count` images"
    return Measured(features, torch.cat(predicted), Nearness.join(nearness), Census.join(census))


def reweighted(features: Tensor, train_labels: Tensor, labels: np.ndarray) -> Statistics:
    """Statistics of the training images, plain and mirrored [2n, D], in the samples' class proportions: what samples of
    perfect quality would have. Balanced labels cost over 20 on the emoji, twice the distance of the held-out images."""
    size = int(max(train_labels.max(), labels.max())) + 1
    have, want = train_labels.bincount(minlength=size).double(), torch.from_numpy(labels).bincount(minlength=size)
    weight = (want / have.clamp(min=1))[train_labels].repeat(2)  # [2n]
    x = features.double()
    weighted = (weight * (len(x) / weight.sum()))[:, None] * x
    return Statistics(len(x), weighted.sum(0), weighted.T @ x)


def _entry(value: float, unit: str, heldout: float) -> dict:
    """A number, and what the held-out images get for it."""
    return {"value": value, "unit": unit, "heldout": heldout}


def _relative(train: Statistics, other: Statistics) -> float:
    result = frechet(train.gaussian, other.gaussian)
    if result.trace_reference <= 0:
        raise ValueError("all reference images have the same features; give a reference with different images")
    return 1000 * result.distance / result.trace_reference


def _ratio(samples: Nearness, heldout: Nearness) -> float:
    if heldout.median == 0:
        raise ValueError("most held-out images are training images too; split the reference so that they differ")
    return samples.median / heldout.median


def per_class(reference: Reference, labels: np.ndarray, predicted: Tensor, guess: Tensor) -> list[dict]:
    """A row a class: samples, share of them that look like it, and the classifier's accuracy on held-out images."""
    rows = []
    for c, name in enumerate(reference.classes):
        mine, theirs = predicted[torch.from_numpy(labels == c)], guess[reference.heldout_labels == c]
        rows.append(
            {"class": name, "samples": len(mine), "agreement": _share(mine == c), "heldout": _share(theirs == c)}
        )
    return rows


def _share(hits: Tensor) -> float | None:
    return float(hits.double().mean()) if len(hits) else None


def card(reference: Reference, trained: Trained, samples: Samples) -> dict:
    """The protocol card: everything that has to be equal before two numbers are compared."""
    return {
        "suite": SUITE,
        "count": samples.count,
        **label_policy(samples.labels),
        "pixels": samples.card["pixels"],
        "networks": {
            "offline": {"sha256": trained.sha256, "dim": DIM, "heldout_accuracy": trained.accuracy, "seed": SEED}
        },
        "reference": {
            "name": reference.name,
            "sha256": reference.fingerprint,
            "count": len(reference.train),
            "heldout": len(reference.heldout),
            "mirrored": True,
        },
        "scores": {"copy_rate": {"rule": f"nearest < {ALPHA} x mean of the {NEIGHBOURS} nearest"}},
    }


def about(samples: Samples, measured: Measured, classes: int) -> dict:
    """What was scored."""
    labels = samples.labels
    counts = None if labels is None else np.bincount(labels, minlength=classes).tolist()
    content = [measured.census.content]
    return {"source": samples.source, "size": samples.size, "sha256_of_pixels": content, "class_counts": counts}
