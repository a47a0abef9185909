"""Points of a sweep as sample.py leaves them, made up, for the tests of sweeps and of their report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pointillist.configs.files import write_json

SCORE = "toy_frechet/emoji/12345678"
CLASSES = ["Flags", "Faces"]


def codes_of(seed: int, images: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, (images, 16), np.int32)


def sample_json(options: dict[str, Any], law: str = "exact", classes: list[str] = CLASSES, **trace: Any) -> dict:
    """What sample.json says of 20 images of 4x4 codes; trace replaces entries of Trace.summary()."""
    defaults = {"run": "runs/<toy>", "num_images": 20, "batch_size": 8, "classes": "balanced", "seed": 0}
    by_slot = {"verified": [4.0] * 15 + [0.0], "rejected": [1.0] * 15 + [0.0], "variation": [0.5] * 15 + [0.0]}
    summary = {
        "images": 20,
        "nfe_per_image": 16.0,
        "seconds_per_image": 0.01,
        "tokens_fed_per_image": 32.0,
        "step_compression": {"mean_of_ratios": 1.0, "ratio_of_means": 1.0},
        "accepted": 0.75,
        "variation_per_image": 0.375,
        "draft_cost": 0.0,
        "committed": {"1": 30, "2": 10},
        "by_slot": by_slot,
    }
    return {
        "options": {**defaults, "precision": "fp32", "guidance": "1", "sampler": {"name": "ancestral"}, **options},
        "law": law,
        "checkpoint": {"path": "runs/toy/step_1", "sha256": "c" * 64, "step": 1},
        "draft": None,
        "tokenizer": {"path": "runs/tokenizer", "sha256": "d" * 64, "name": "conv"},
        "spec": {"grids": [[4, 4]], "vocab": [9], "channels": 2},
        "classes": classes,
        "trace": {**summary, **trace},
        "device": "cpu",
        "versions": {"torch": "2"},
        "git": "abc",
    }


def write_point(folder: Path, sample: dict, codes: np.ndarray, score: float | None = None) -> Path:
    """Images and codes [N, 16] of a point; sample.json last, as SampleFiles does."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(codes)) % len(sample["classes"])
    pixels = np.repeat(codes.astype(np.uint8)[..., None] * 20, 3, -1).reshape(-1, 4, 4, 3)
    np.savez(folder / "images.npz", arr_0=pixels, arr_1=labels)
    np.savez(folder / "codes.npz", codes=codes, labels=labels)
    if score is not None:
        write_scores(folder, score)
    write_json(folder / "sample.json", sample)
    return folder


def write_scores(folder: Path, score: float) -> None:
    entry = {"value": score, "unit": "of something", "heldout": 11.0}
    write_json(folder / "scores.json", {"scores": {SCORE: entry}, "warnings": {"few": "few images"}, "note": "no FID"})
