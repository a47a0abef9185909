"""Recorded systems: folders with meta.json, cases.safetensors and, mostly, weights.safetensors.

They lie in tests/golden, or in the folder that the environment variable POINTILLIST_GOLDEN names. How a system's cases
are checked is a file of tests/systems, which defines

    SYSTEMS  names (`system` of meta.json) that it checks, and with them longer ones: par is also par_ar9's
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
from collections.abc import Callable, Collection
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
NUMBER = r"(\d+(?:[.p]\d+)?)"  # in a case's name; 1p5 is 1.5


@dataclass(frozen=True)
class Golden:
    """A recorded system."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "meta.json").read_text())

    @property
    def system(self) -> str:
        return self.meta.get("system", self.folder.name)

    @cached_property
    def cases(self) -> dict[str, Tensor]:
        return load_file(self.folder / "cases.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """float32, whatever they are stored in."""
        stored = load_file(self.folder / "weights.safetensors")
        return {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}

    @cached_property
    def tokenizer(self) -> Golden:
        """The recorded tokenizer of a VAR: of those that `vae_weights` names and those beside, the first whose
        configuration is the generator's; else the first."""
        named = self.folder / Path(self.meta["vae_weights"].split()[0]).parent
        beside = [folder for folder in folders(self.folder.parent) if of("var_vqvae", recorded(folder).system)]
        found = [recorded(folder) for folder in (named, *beside) if (folder / "meta.json").is_file()]
        assert found, f"{self.folder} has no tokenizer: neither {named} nor a var_vqvae beside it"
        return next((one for one in found if one.meta["config"]["vae"] == self.meta["config"]["vae"]), found[0])

    def __getitem__(self, case: str) -> Tensor:
        return self.cases[case]


@cache
def recorded(folder: Path) -> Golden:
    return Golden(folder)


def folders(root: Path = GOLDEN) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/meta.json"))


def of(name: str, system: str) -> bool:
    return system == name or system.startswith(f"{name}_")


def known(system: str, names: Collection[str]) -> str | None:
    """The longest of the names that are the system's, None if there is none."""
    return max((name for name in names if of(name, system)), key=len, default=None)


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
    """Numbers in a case's name: numbers("gen_cfg4_int3.tokens", f"_cfg{NUMBER}") is [4.0]."""
    found = re.search(pattern, case)
    return [float(x.replace("p", ".")) for x in found.groups() if x] if found else []


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


def relative(ours: Tensor | float, theirs: Tensor | float, rtol: float = 1e-6, atol: float = 0.0) -> None:
    """A loss: within rtol of the recorded one, or within atol."""
    a, b = float(ours), float(theirs)
    assert abs(a - b) <= max(rtol * abs(b), atol), f"{a!r} here, {b!r} recorded"
