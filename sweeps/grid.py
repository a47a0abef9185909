"""The grid of a sweep: words `key=a,b,c` of a command become points, one for each combination that differs.

Commas inside brackets part nothing: guidance_interval=[0,1],[0.1,0.8] are two values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any

from pointillist.configs.options import load, to_dict


@dataclass(frozen=True)
class Point:
    """The words of one run, and the folder name that says what is its own."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """axes: keys that have several values, as typed (none: an ordinary run); points in the order of the words."""

    axes: tuple[str, ...]
    points: tuple[Point, ...]


def expand(cls: type, words: list[str], whole: set[str], part: str = "sampler") -> Grid:
    """Words that hold commas become axes, but for keys in `whole`, whose one value may hold them.

    An option of the part (sampler.window) goes to the points whose part has it; ValueError as from `load` where none
    has, for an unknown key, and for a value that does not fit.
    """
    values = _values(cls, words, whole, part)
    axes = tuple(key for key, found in values.items() if len(found) > 1)
    if not axes:
        return Grid((), ())
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    chosen = [_fitting(cls, combination, part) for combination in combinations]
    for key in values:
        if key.startswith(f"{part}.") and not any(key in point for point in chosen):
            load(cls, None, _words({k: v for k, v in combinations[0].items() if k == part} | {key: values[key][0]}))
            raise ValueError(f"{key} fits none of the points; leave it out")
    distinct: dict[tuple, dict[str, str]] = {}
    for point in chosen:
        distinct.setdefault(tuple((key, _number(value)) for key, value in point.items()), point)
    points = list(distinct.values())
    names = [folder_name({k: v for k, v in point.items() if k in axes}, axes, part) for point in points]
    assert len(set(names)) == len(names), f"two points share a folder: {names}"
    for point in points:
        load(cls, None, _words(point))
    return Grid(axes, tuple(Point(name, tuple(_words(point))) for name, point in zip(names, points, strict=True)))


def pieces(value: str) -> list[str]:
    """A value at its commas, but for those inside brackets."""
    found, depth = [""], 0
    for letter in value:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [piece.strip() for piece in found]


def _values(cls: type, words: list[str], whole: set[str], part: str) -> dict[str, list[str]]:
    """Key -> its values; of a key that is given twice the later word holds, as in `load`."""
    values: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            load(cls, None, [word])  # says what is wrong with it
        key = part if key == f"{part}.name" else key
        values[key] = [value] if key in whole else pieces(value)
        if len(values[key]) > 1 and "" in values[key]:
            raise ValueError(f"{word} holds an empty value between its commas; write {key}=a,b,c")
    return values


def _fitting(cls: type, point: dict[str, str], part: str) -> dict[str, str]:
    """A combination without the part's options that this part has not; outer options choose which inner ones exist."""
    nested = sorted((key for key in point if key.startswith(f"{part}.")), key=lambda key: key.count("."))
    kept = {key: value for key, value in point.items() if key == part}
    for key in nested:
        if _has(cls, _words(kept), key):
            kept[key] = point[key]
    return {key: value for key, value in point.items() if key not in nested or key in kept}


def _has(cls: type, words: list[str], key: str) -> bool:
    try:
        options: Any = to_dict(load(cls, None, words))
    except ValueError:
        return True  # a wrong value: the point as a whole is refused with the reason
    return find(options, key) is not None


def find(options: dict, key: str) -> Any:
    """The value at a dotted key; a part's own is its name. None where there is no such key."""
    for step in key.split("."):
        options = options.get(step) if isinstance(options, dict) else None
    return options.get("name", options) if isinstance(options, dict) else options


def _words(point: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in point.items()]


def _number(value: str) -> Any:
    """1 and 1.0 are the same point."""
    try:
        return float(value)
    except ValueError:
        return value


def folder_name(values: dict[str, str], axes: tuple[str, ...], part: str = "sampler") -> str:
    """jacobi-window8-guidance1.5: readable, and different for different values; a hash where letters had to go."""
    last = [axis.rpartition(".")[2] for axis in axes]
    short = {axis: end if last.count(end) == 1 else axis for axis, end in zip(axes, last, strict=True)}
    ordered = sorted(values, key=lambda key: (key != part, not key.startswith(f"{part}.")))
    typed = "-".join(values[key] if key == part else f"{short[key]}{values[key]}" for key in ordered)
    plain = re.sub(r"[^\w.+-]", "_", typed)[:100]
    is_clear = plain == typed and not any("-" in value for value in values.values()) and plain.strip(".")
    return plain if is_clear else f"{plain}-{sha256(typed.encode()).hexdigest()[:8]}"
