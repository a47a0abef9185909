"""Recipes: a YAML of sampling options, with what was published of the images that they repeat, if anything was.

configs/imagenet/NAME.yaml is a published row. Beside the options of sample.py it may say

    base          a file whose values hold where this one says nothing
    published     the row: title, family, source, scores, certainty, recipe (evaluation/published.py); other files that
                  have such a one as their base repeat no row
    not_runnable  why it cannot be run, in a line
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointillist.configs.options import ROOT, read_yaml

IMAGENET = ROOT / "configs" / "imagenet"
NOT_RUNNABLE = "not_runnable"


@dataclass(frozen=True)
class Recipe:
    """name, sampling options as they stand in the file, what was published, and why it cannot be run: "" if it can."""

    name: str
    options: dict[str, Any]
    published: dict[str, Any]
    not_runnable: str

    def words(self) -> list[str]:
        """The options as they would be typed. Raises ValueError for a row that cannot be run."""
        if self.not_runnable:
            raise ValueError(f"{self.name} cannot be run: {self.not_runnable}")
        row = [f"published={self.name}"] if self.published else []
        return [*row, *(f"{key}={_typed(value)}" for key, value in _flat(self.options))]


def read_recipe(path: str | Path) -> Recipe:
    """Raises FileNotFoundError, and ValueError for what is no YAML or a `published` that is no mapping."""
    values = read_yaml(path)
    published, why = values.pop("published", {}), values.pop(NOT_RUNNABLE, "")
    if not isinstance(published, dict) or not isinstance(why, str):
        raise ValueError(f"{path}: published must hold title, family, source, scores; {NOT_RUNNABLE} is one line")
    name = Path(path).stem
    is_row = name in (files := recipes()) and files[name].resolve() == Path(path).resolve()
    return Recipe(name, values, published if is_row else {}, why)


def recipes() -> dict[str, Path]:
    """Name -> file of every published row that ships with a recipe."""
    return {path.stem: path for path in sorted(IMAGENET.glob("*.yaml"))}


def _flat(values: dict, prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
