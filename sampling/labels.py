"""Which class each image gets: a function of (seed, image), so that restarts and batches agree."""

from __future__ import annotations

import torch
from torch import Tensor

from pointillist.sampling.noise import Noise


def class_ids(words: str, names: list[str]) -> list[int]:
    """Class numbers of `balanced`, `random` (both: every class) or a list of names and numbers.

    Raises ValueError that names the nearest classes.
    """
    if words in ("balanced", "random"):
        return list(range(len(names)))
    lower = {name.lower(): i for i, name in enumerate(names)}
    ids = []
    for word in (w.strip() for w in str(words).strip("[]").split(",")):
        if word.isdigit() and int(word) < len(names):
            ids.append(int(word))
        elif word.lower() in lower:
            ids.append(lower[word.lower()])
        else:
            known = ", ".join(f"{i} {name}" for i, name in enumerate(names[:20])) + (" ..." if len(names) > 20 else "")
            raise ValueError(f"no class '{word}'; classes are {known}; or balanced, or random")
    return ids


def labels_of(ids: list[int], count: int, noise: Noise, draw: bool = False) -> Tensor:
    """Labels [count] int64. Each block of len(ids) images is a shuffle of ids: balanced, and never sorted by class
    (consecutive splits of a class-sorted file ruin an Inception score). With `draw` each is an independent draw."""
    choices = torch.tensor(ids)
    block, place = (
        x.flatten() for x in torch.meshgrid(_blocks(count, len(ids)), torch.arange(len(ids)), indexing="ij")
    )
    if draw:
        image = block * len(ids) + place
        uniform = noise.uniform("label", image, torch.zeros_like(image), 1)[:, 0]
        return choices[(uniform * len(ids)).long()][:count]
    order = noise.uniform(
        "label", _blocks(count, len(ids)), torch.ones_like(_blocks(count, len(ids))), len(ids)
    ).argsort(-1)
    return choices[order].flatten()[:count]


def _blocks(count: int, size: int) -> Tensor:
    return torch.arange(-(-count // size))
