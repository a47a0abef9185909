"""The protocol card: all that has to be known, and what has to be equal, before two numbers are compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointillist import __version__
from pointillist.configs.files import read_json
from pointillist.evaluation.reference import Compared, Reference
from pointillist.evaluation.samples import Samples
from pointillist.training.precision import decoded_in

SUITE = "pointillist 1"
NOTE = "Numbers compare only where the protocols are equal: evaluate.py compare A B"


def label_policy(labels: np.ndarray | None) -> dict:
    """How often each class occurs, and how many classes do."""
    if labels is None:
        return {"label_policy": "no labels", "classes": None}
    counts = np.unique(labels, return_counts=True)[1]
    policy = "balanced" if counts.max() - counts.min() <= 1 else "not balanced"
    return {"label_policy": policy, "classes": len(counts)}


def of_reference(reference: Reference, compared: Compared) -> dict:
    """What the samples were compared with."""
    moments, sha256 = {k: g.count for k, g in reference.stored.items()}, reference.sha256
    if compared.measured is not None:
        moments |= {k: s.count for k, s in compared.measured.tally.moments.items()}
        if not reference.stored:  # images alone are known by their pixels, wherever they lie
            sha256 = compared.measured.census.content
    return {
        "sha256": sha256,
        "moments_of": moments,  # null: stored, and their number not said
        "image_count": compared.count,
        "pixels": reference.images.card["pixels"] if reference.images else None,
        "made": reference.made.get("images"),  # by make-reference: from which pixels
    }


def of_samples(samples: Samples, run: dict | None) -> dict:
    """The part that must be equal: how many, of which classes, and how they became pixels.

    run: what is known of a generator's run that made them, whatever images then look like on disk.
    """
    pixels = samples.card["pixels"]
    if run and samples.stored:
        made = (run.get("request") or {}).get("pixels") or {"resize": "none", "quantize": "round"}
        before = [made["resize"]] if made["resize"] != "none" else []
        later = [pixels["resize"]] if pixels["resize"] != "none" else []
        quantize = made["quantize"] if pixels["quantize"] == "as stored" else pixels["quantize"]
        pixels = pixels | {"resize": ", then ".join(before + later) or "none", "quantize": quantize}
    return {"count": samples.count, **label_policy(samples.labels), "pixels": pixels}


def origin(images: Path) -> dict | None:
    """What sample.py wrote beside its images.npz: checkpoint, request, precision, versions. None for other images."""
    images = images / "images.npz" if images.is_dir() else images
    path = images.with_name("sample.json")
    if images.name != "images.npz" or not path.is_file():
        return None
    said = read_json(path)
    kept = ("checkpoint", "original", "published", "tokenizer", "draft", "law", "device", "versions", "git", "warning")
    request = said.get("options") or {}
    decoded = decoded_in(request.get("precision", "fp32"), request.get("decoder_precision", "fp32"))
    made = {"request": request, "weights": weights_of(said), "decoded": decoded}
    return made | {k: said[k] for k in kept if said.get(k) is not None}


def weights_of(about: dict) -> str:
    """Which weights a config.json or sample.json speaks of: train.py saves the average."""
    return f"as published, {about['original']['name']}" if about.get("original") else "EMA"


def environment(device: torch.device, processes: int, networks: dict[str, Any]) -> dict:
    """Where it was computed: this may move the third decimal."""
    libraries = {name: version for n in networks.values() for name, version in n.card.get("libraries", {}).items()}
    return {
        "pointillist": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": str(device),
        "processes": processes,
        "features": "float32, TF32 off",
        "statistics": "float64",
    } | libraries


# ------------------------------------------------------------------------------------------------------- written before


def request(asked: list) -> str:
    """sha256 hex of all that numbers depend on, JSON-ready."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def check_out(out: str) -> None:
    """Raises ValueError for what cannot be a score file, before anything is measured."""
    if out and (not out.endswith(".json") or Path(out).is_dir()):
        raise ValueError(f"out={out} must be a file that ends with .json")


def parts_of(out: Path) -> Path:
    """Where unfinished work for a score file lies."""
    return out.with_name(f"{out.name}.parts")


def is_written(out: Path, request: str) -> bool:
    """Whether the scores of this request are there. Raises ValueError where others would be lost."""
    if not out.is_file():
        return False
    before = read_json(out)
    if before.get("samples", {}).get("request") == request:
        return True
    held = ", ".join(before.get("scores", {})) or "nothing"
    raise ValueError(f"{out} holds other scores ({held}) or those of other images; choose out=FILE, or delete it")
