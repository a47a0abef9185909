"""The members of all families, by name. A family is a file of this folder that defines MEMBERS; see family.py."""

from __future__ import annotations

import importlib
from types import ModuleType

from pointillist.configs.options import ROOT, did_you_mean
from pointillist.zoo.family import Member


def families() -> list[ModuleType]:
    files = sorted((ROOT / "zoo").glob("*.py"))
    stems = [file.stem for file in files if "\nMEMBERS = (" in file.read_text(encoding="utf-8")]
    return [importlib.import_module(f"pointillist.zoo.{stem}") for stem in stems]


def members() -> list[Member]:
    return [m for family in families() for m in family.MEMBERS]


def names() -> list[str]:
    return [m.name for m in members()]


def member(name: str) -> Member:
    """Raises ValueError, with the nearest name, for one that is not there."""
    for m in members():
        if m.name == name:
            return m
    raise ValueError(f"the zoo has no '{name}'; it has {', '.join(names())}{did_you_mean(name, names())}")


def family_of(m: Member) -> ModuleType:
    return next(family for family in families() if m in family.MEMBERS)
