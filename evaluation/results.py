"""Score files: found, read, named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from pointillist.configs.files import read_json
from pointillist.evaluation.protocol import is_offline, origin
from pointillist.evaluation.tables import number


@dataclass(frozen=True, eq=False)
class Result:
    """A score file. `whole` is its content; `name` is short and says it apart from those beside it."""

    path: Path
    name: str
    whole: dict[str, Any]

    @property
    def card(self) -> dict[str, Any]:
        return self.whole["protocol"]

    @property
    def samples(self) -> dict[str, Any]:
        return self.whole["samples"]

    @property
    def is_offline(self) -> bool:
        return is_offline(self.card)

    @property
    def scores(self) -> dict[str, dict]:
        """Column -> entry. A name that belongs to a published score does not keep it in the offline suite."""
        scores = self.whole["scores"]
        return {f"{k} (offline)" if self.is_offline and origin(k) else k: entry for k, entry in scores.items()}

    def notes(self) -> list[str]:
        """Its own note, where it is offline, and the names of its warnings."""
        said = [self.whole["note"]] if self.is_offline and self.whole.get("note") else []
        if warnings := self.whole.get("warnings"):
            said.append(f"{self.name} was scored with warnings: {', '.join(warnings)}")
        return said


def read(path: Path, name: str) -> Result:
    """Raises ValueError, one line, for what is damaged or no score file."""
    whole = read_json(path)
    for key in ("scores", "protocol", "samples"):
        if not isinstance(whole.get(key), dict):
            raise ValueError(f"{path} has no {key}: it is no score file, or an old one; score its images again")
    if not whole["scores"] or not whole["protocol"].get("suite"):
        raise ValueError(f"{path} holds {'no suite' if whole['scores'] else 'no score'}; score its images again")
    for score, entry in whole["scores"].items():
        value = entry.get("value") if isinstance(entry, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{path} is damaged: its score {score} has no number as value, got {value}")
    return Result(path, name, whole)


def read_all(paths: Sequence[Path]) -> list[Result]:
    return [read(path, name) for path, name in zip(paths, names(paths), strict=True)]


def names(paths: Sequence[Path]) -> list[str]:
    """Paths without what all of them begin and end with: runs/emoji/{par,token}/samples/scores.json -> par, token."""
    parts = [path.with_suffix("").parts for path in paths]
    parts = [p[:-1] if len(p) > 1 and p[-1] == "scores" else p for p in parts]
    if len(set(parts)) > 1:
        shared = _shared(parts)
        tail = _shared(p[:shared:-1] for p in parts)
        parts = [p[shared : len(p) - tail] if p[shared:] else p[-1:] for p in parts]
    return [str(Path(*p)) for p in parts]


def _shared(paths: Iterable[tuple[str, ...]]) -> int:
    """Parts with which all paths begin."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))


def heldout(results: list[Result]) -> list[str]:
    """What held-out images get for the offline scores: without it nobody knows what a value is worth."""
    lines = []
    for result in results:
        for name, entry in result.scores.items():
            if entry.get("heldout") is not None:
                unit = f", {entry['unit']}" if entry.get("unit") else ""
                lines.append(f"{name}: held-out images get {number(entry['heldout'])}{unit}")
    return lines


# ---------------------------------------------------------------------------------------------------------------- found

PATTERN = "scores*.json"


def one(target: str) -> Path:
    """The score file that a target names: itself, or the one in or below a folder.

    Raises FileNotFoundError where there is none, ValueError where there are several.
    """
    path = Path(target)
    if path.is_dir() and (path / "scores.json").is_file():
        return path / "scores.json"
    found = every([target])
    if len(found) > 1:
        some = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
        raise ValueError(f"{target} holds {len(found)} score files ({some}); name one of them")
    return found[0]


def every(targets: Sequence[str]) -> list[Path]:
    """All score files of files and folders, below them too, each once, in the order of the targets."""
    found: dict[Path, Path] = {}
    for target in targets:
        path = Path(target)
        files = sorted(p for p in path.rglob(PATTERN) if p.is_file()) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{target} holds no {PATTERN}; score its images with evaluate.py first")
        if not files[0].exists():
            raise FileNotFoundError(f"there is no {target}; give a score file or a folder that holds one")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())
