"""Recorded systems: folders with meta.json, cases.safetensors and, mostly, weights.safetensors.

They lie in tests/golden, or in the folder that the environment variable POINTILLIST_GOLDEN names. How a system's cases
are checked is a file of tests/systems, which defines

    SYSTEMS  names (`system` of meta.json) that it checks
    INPUTS   patterns of cases that are read, not checked
    CHECKS   pattern of a case -> function(golden, case) that asserts; it returns the largest absolute difference, or
             None where equality was asserted

Patterns are regular expressions for the whole name of a case.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
GOLDEN = Path(os.environ.get("POINTILLIST_GOLDEN") or HERE / "golden")


@dataclass(frozen=True)
class Golden:
    """A recorded system."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "meta.json").read_text())

    @cached_property
    def cases(self) -> dict[str, Tensor]:
        return load_file(self.folder / "cases.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """float32, whatever they are stored in."""
        stored = load_file(self.folder / "weights.safetensors")
        return {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}

    def beside(self, name: str) -> Golden:
        """Another system of the same folder."""
        return recorded(self.folder.parent / name)

    def __getitem__(self, case: str) -> Tensor:
        return self.cases[case]


@cache
def recorded(folder: Path) -> Golden:
    return Golden(folder)


def folders(root: Path = GOLDEN) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/meta.json"))


@cache
def systems() -> dict[str, ModuleType]:
    """Name of a system -> the file that checks it."""
    files = sorted((HERE / "systems").glob("*.py"))
    modules = [importlib.import_module(f"tests.systems.{file.stem}") for file in files]
    return {name: module for module in modules for name in module.SYSTEMS}


def find(patterns: dict[str, Callable] | tuple[str, ...], case: str) -> Callable | bool | None:
    """What stands behind the pattern that fits a case: its check, or True of a mere tuple; None if none fits."""
    for pattern in patterns:
        if re.fullmatch(pattern, case):
            return patterns[pattern] if isinstance(patterns, dict) else True
    return None


def numbers(case: str, pattern: str) -> list[float]:
    """Numbers in a case's name: numbers("gen_cfg4_int3.tokens", r"cfg(\\d+)") is [4.0]."""
    found = re.search(pattern, case)
    return [float(x) for x in found.groups() if x] if found else []


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-4) -> float:
    """The largest absolute difference, which must not exceed atol."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} here, {tuple(theirs.shape)} recorded"
    worst = float((ours.detach().double() - theirs.double()).abs().max())
    assert worst <= atol, f"differs by {worst:.3g}, allowed {atol:g}"
    return worst


def same(ours: Tensor, theirs: Tensor) -> None:
    """Integers: equal, all of them."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} here, {tuple(theirs.shape)} recorded"
    wrong = int((ours.to(torch.int64) != theirs.to(torch.int64)).sum())
    assert not wrong, f"{wrong} of {theirs.numel()} differ"


def relative(ours: Tensor | float, theirs: Tensor | float, rtol: float = 1e-6) -> None:
    """A loss: within rtol of the recorded one."""
    a, b = float(ours), float(theirs)
    assert abs(a - b) <= rtol * abs(b), f"{a!r} here, {b!r} recorded"
