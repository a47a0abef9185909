"""A result for a person: the numbers of all seeds, what is odd about the images, and lines to print."""

from __future__ import annotations

from typing import Any

import numpy as np

from pointillist.evaluation.guards import GREY, find_warnings
from pointillist.evaluation.measure import Measured
from pointillist.evaluation.reference import Compared
from pointillist.evaluation.samples import Samples

CONVENTIONAL = 50_000  # images of a published FID
USUAL_GREY = 0.02  # share of grey photographs
SAME = 1e-6  # a distance below it, relative to the reference's variance, is none


def combined(seeds: list[dict[str, dict]]) -> dict[str, dict]:
    """Scores of several seeds as mean, least and standard deviation, with all values; of one seed as they are."""
    if len(seeds) == 1:
        return seeds[0]
    out = {}
    for name in seeds[0]:
        values = [found[name]["value"] for found in seeds]
        spread = {"value": float(np.mean(values)), "min": min(values), "std": float(np.std(values, ddof=1))}
        out[name] = {**spread, "seeds": values}
    return out


def warnings_of(
    samples: Samples,
    measured: Measured,
    compared: Compared | None,
    expected: int,
    scores: dict[str, dict],
    networks: dict[str, Any],
) -> dict[str, str]:
    """Name -> one line."""
    seen = compared.measured if compared else None
    usual = max(USUAL_GREY, seen.census.share(GREY)) if seen else USUAL_GREY
    labels = samples.labels if samples.labels is not None else measured.predicted
    found = find_warnings(measured.census, seen.census if seen else None, labels, usual)
    found |= counts_of(measured, expected)
    n = measured.count
    if compared and compared.reference.images and compared.reference.images.size != samples.size:
        found["reference_size"] = (
            f"the reference's images have {compared.reference.images.size} pixels, the samples {samples.size}: the "
            "network enlarges both to 299, and what is lost in smaller ones counts"
        )
    if samples.lossy:
        found["lossy_files"] = f"{samples.lossy} of {n} files were compressed with loss (JPEG, WebP); score PNG or npz"
    if compared and compared.reference.images and compared.reference.images.lossy:
        found["lossy_reference"] = (
            f"{compared.reference.images.lossy} of {compared.count} reference images were compressed with loss, as "
            "photographs usually are; it moves the distance of lossless samples"
        )
    if compared and (counts := reference_counts(compared)) and min(counts) < CONVENTIONAL:
        found["few_reference_images"] = (
            f"the reference's statistics are of {min(counts)} images; published ones are of the whole training set"
        )
    for name, network in networks.items():
        if not network.card.get("weights_hash_known", True):
            found[f"{name}_hash"] = f"no published sha256 of the {name} weights is known; it is {network.sha256[:8]}..."
    distances = [v["value"] for k, v in scores.items() if k == "fid" or k.startswith("frechet(")]
    if distances and compared and distances[0] < SAME * float(variance(compared)):
        found["equal_to_reference"] = "the samples have the reference's statistics: was it compared with itself?"
    return found


def counts_of(measured: Measured, expected: int) -> dict[str, str]:
    """Warnings about how many images there are."""
    found, n = {}, measured.count
    dim = max((s.dim for s in measured.tally.moments.values()), default=0)
    if n != expected != CONVENTIONAL:
        found["sample_count"] = f"{n} images, not num_images={expected}"
    elif n != CONVENTIONAL:
        found["sample_count"] = f"{n} images; published scores are of {CONVENTIONAL:,}, and distances fall as 1/N"
    if n <= dim:
        found["few_samples"] = f"{n} images for {dim} features: the covariance has no full rank, the distance is large"
    return found


def reference_counts(compared: Compared) -> list[int]:
    """How many images are behind each mean and covariance, where that is known."""
    stored = [g.count for g in compared.reference.stored.values() if g.count is not None]
    return stored + ([s.count for s in compared.measured.tally.moments.values()] if compared.measured else [])


def variance(compared: Compared) -> float:
    """tr S of the reference's pooled features."""
    return float(compared.seen_by("inception").moments("pool").covariance.trace())


# --------------------------------------------------------------------------------------------------------------- lines


def lines(result: dict) -> list[str]:
    """Head, a score a line, warnings, note."""
    protocol, reference = result["protocol"], result["samples"]["reference"]
    out = [f"{protocol['count']:,} images, {protocol['label_policy']}", ""]
    out[0] += f" | against {reference}" if reference else ""
    for name, entry in result["scores"].items():
        out.append(f"{name:<34}{entry['value']:>12.5g}{spread(entry)}")
    out += [""] + [f"warning: {name}: {line}" for name, line in result["warnings"].items()]
    return [*out, result["note"]]


def spread(entry: dict[str, Any]) -> str:
    """What is known of a value's uncertainty."""
    if "seeds" in entry:
        return f"  mean of {len(entry['seeds'])} seeds; least {entry['min']:.5g}, standard deviation {entry['std']:.2g}"
    return f"  +- {entry['width']:.2g} ({entry['how']})" if "width" in entry else ""
