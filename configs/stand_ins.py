"""Help without the seconds that torch takes to import.

Options are dataclasses beside the code that reads them, so whoever lists them imports that code and all that it needs.
A process that prints help and ends needs of torch only its names: here they are, without what is behind them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

PACKAGES = {"numpy", "PIL", "safetensors", "scipy", "timm", "torch", "torch_fidelity", "torchvision", "tqdm"}
PLAIN = "POINTILLIST_PLAIN_HELP"  # environment: set where help is printed with the real packages


class StandIn(ModuleType):
    """Any module, class, function or decorator of an absent package, as far as definitions name it.

    Raises TypeError where its value would matter.
    """

    def __getattr__(self, name: str) -> StandIn:
        if name.startswith("__"):  # what the import system and dataclasses ask of every object
            raise AttributeError(name)
        return StandIn(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        return self

    __getitem__ = __or__ = __ror__ = __call__  # annotations

    def __mro_entries__(self, _: tuple) -> tuple:
        return ()

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(f"{self.__name__} is a stand-in, which has no value")

    __bool__ = __eq__ = __iter__ = __str__ = __repr__ = __format__ = _refuse
    __hash__ = ModuleType.__hash__  # of its identity: a key of module-level dictionaries


class Finder:
    """Imports stand-ins for packages, and for all that is in them."""

    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.packages else None

    def create_module(self, spec: ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed."""


def print_help(main: Callable[[list[str]], None], argv: list[str]) -> NoReturn:
    """Run `main`, which prints help and ends the process; packages that are not imported yet are stood in for.

    Where it does not end so, because of a mistake in argv or of a file that computes with a package while it is
    imported, the command starts over with the real packages: no stand-in outlives this function but in the exit.
    """
    sys.meta_path.insert(0, Finder(PACKAGES - sys.modules.keys()))
    with suppress(Exception):  # of whatever kind: the real packages will say it, or know better
        main(argv)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {PLAIN: "1"})
