"""Which class each image gets: a function of (seed, image), so that restarts and batches agree."""

from __future__ import annotations

import torch
from torch import Tensor

from pointillist.sampling.noise import Noise


def labels_of(classes: str, count: int, names: list[str], frequencies: list[int] | None, noise: Noise) -> Tensor:
    """Labels [count] int64 of image 0, 1, ...; the first ones do not depend on count.

    classes: balanced | random (uniform draws) | proportional (draws as frequent as in the training data) | names and
    numbers with commas. Balanced and listed classes come in shuffled blocks, never sorted: consecutive splits of a
    class-sorted file ruin an Inception score. Raises ValueError that names the classes there are.
    """
    if classes == "proportional" and not sum(frequencies or []):
        raise ValueError(
            "classes=proportional: how often each class occurred in training is not known of this generator; "
            "choose balanced, random or names"
        )
    if classes in ("random", "proportional"):
        weights = torch.tensor(frequencies if classes == "proportional" else [1] * len(names), dtype=torch.float64)
        image = torch.arange(count)
        uniform = noise.uniform("label", image, torch.zeros_like(image), 1)[:, 0]
        return torch.searchsorted(weights.cumsum(0) / weights.sum(), uniform).clamp_max(len(names) - 1)
    ids = torch.tensor(range(len(names)) if classes == "balanced" else listed(classes, names))
    block = torch.arange(-(-count // len(ids)))
    order = noise.uniform("label", block, torch.ones_like(block), len(ids)).argsort(-1)
    return ids[order].flatten()[:count]


def listed(words: str, names: list[str]) -> list[int]:
    """Class numbers of names and numbers with commas. A name may be shortened while only one class begins with it."""
    whole = words.strip("[] ")
    parts = [whole] if whole in names else whole.split(",")  # "tench, Tinca tinca" is one class
    return [_number(part.strip(), names) for part in parts]


def _number(word: str, names: list[str]) -> int:
    lower = [name.lower() for name in names]
    if word.isdigit() and int(word) < len(names):
        return int(word)
    matching = [i for i, name in enumerate(lower) if word and name.startswith(word.lower())]
    if word.lower() in lower or len(matching) == 1:
        return lower.index(word.lower()) if word.lower() in lower else matching[0]
    known = ", ".join(f"{i} {name}" for i, name in enumerate(names[:20])) + (" ..." if len(names) > 20 else "")
    raise ValueError(f"no class '{word}'; classes are {known}; or balanced, random, proportional")
