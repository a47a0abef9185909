"""Published rows: what papers and repositories say of their generators, and how far a result can be held against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pointillist.configs.options import ROOT, build, read_yaml
from pointillist.configs.recipes import read_recipe, recipes
from pointillist.evaluation.protocol import ADM

SHIPPED = ROOT / "evaluation" / "published.yaml"  # rows of families that the zoo has not
SCORES = ("fid", "sfid", "is", "precision", "recall")  # what a published row may hold
IMAGES = {512: 1_000}  # image size -> images in ADM's reference, where it is not the usual number
CERTAINTY = ("readme", "paper-mem")  # stated by the repository | recalled from the paper, to be verified


@dataclass
class Recipe:
    """How the images were drawn, as far as it is public, in the source's own convention; None = not stated."""

    guidance: float | None = None
    convention: str | None = None  # the formula that the source calls guidance
    schedule: str | None = None  # how the guidance changes along the image
    temperature: float | None = None
    top_k: int | None = None  # 0 = off
    top_p: float | None = None  # 1 = off
    passes: int | None = None  # forward passes of the network an image; a guided one counts once
    labels: str | None = None  # balanced | random
    note: str | None = None


@dataclass
class Published:
    """A row of a paper's table. `image_size` is that of the images that were scored, after any resizing."""

    title: str
    family: str
    source: str
    scores: dict[str, float]
    certainty: dict[str, str]
    image_size: int = 256
    recipe: Recipe = field(default_factory=Recipe)

    def protocol(self) -> dict[str, Any]:
        """What a card must say before a measured score is this row's."""
        balanced = {"balanced": "balanced", "random": "not balanced"}.get(self.recipe.labels or "")
        labels = {"label_policy": balanced} if balanced else {}
        images = {"image_count": IMAGES.get(self.image_size, ADM["reference"]["image_count"])}
        reference = {**ADM["reference"], **images}
        return {**ADM, **labels, "pixels": {"size": self.image_size}, "reference": reference}


def read_published(path: str | Path = "") -> dict[str, Published]:
    """Name -> row, of a YAML file; without one all that ship: of configs/imagenet and of evaluation/published.yaml.

    Raises ValueError, one line, that names the row that is wrong.
    """
    if path:
        return _read(path)
    known = {name: _row(file, name, read_recipe(file).published) for name, file in recipes().items()}
    others = _read(SHIPPED)
    assert not known.keys() & others.keys(), f"rows are given twice: {known.keys() & others.keys()}"
    return known | others


def _read(path: str | Path) -> dict[str, Published]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path} of published rows; {SHIPPED} shows the format")
    return {name: _row(path, name, values) for name, values in read_yaml(path).items()}


def _row(path: str | Path, name: str, values: Any) -> Published:
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {name} must hold title, family, source, scores and certainty, got {values}")
    try:
        row = build(Published, values)
    except ValueError as e:
        raise ValueError(f"{path}: {name}: {e}") from None
    if wrong := [score for score in row.scores if score not in SCORES]:
        raise ValueError(f"{path}: {name}: scores may be {', '.join(SCORES)}, got {wrong[0]}")
    if not row.scores or row.certainty.keys() != row.scores.keys() or not set(row.certainty.values()) <= {*CERTAINTY}:
        raise ValueError(f"{path}: {name}: each score needs a value and a certainty, one of {', '.join(CERTAINTY)}")
    if row.recipe.labels not in (None, "balanced", "random"):
        raise ValueError(f"{path}: {name}: recipe.labels must be balanced or random, got {row.recipe.labels}")
    return row
