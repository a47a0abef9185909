"""What a sweep found: a row a point, as CSV and as a Markdown table. Read from the points' own files, nothing else."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pointillist.configs.files import read_json
from pointillist.sweeps.grid import find

ANCESTRAL = "ancestral"


@dataclass(frozen=True, eq=False)
class Result:
    """A finished point.

    values   swept option -> its value; options that this sampler has not are missing
    sample   sample.json
    scored   scores.json, {} without
    same     bool [num_images]: the codes are those of the point of the same numbers with sampler=ancestral; None
             where there is no such point
    """

    folder: Path
    values: dict[str, str]
    sample: dict
    scored: dict
    same: np.ndarray | None = None

    @property
    def scores(self) -> dict[str, dict]:
        """Name -> {"value", "unit", "heldout"}."""
        return self.scored.get("scores", {})

    @property
    def sampler(self) -> str:
        """The sampler with its own swept options: "jacobi, window 8"."""
        own = [f"{k.removeprefix('sampler.')} {v}" for k, v in self.values.items() if k.startswith("sampler.")]
        return ", ".join([self.sample["options"]["sampler"]["name"], *own])

    @property
    def is_ancestral(self) -> bool:
        return self.sample["options"]["sampler"]["name"] == ANCESTRAL

    @property
    def numbers(self) -> dict[str, str]:
        """The swept options that are not the sampler's: who shares them should get the same images."""
        return {k: v for k, v in self.values.items() if k.partition(".")[0] != "sampler"}

    def caption(self, said: str) -> str:
        """Which point this is, and something about it, for a figure of the page."""
        numbers = ", ".join(f"{key} {value}" for key, value in self.numbers.items())
        return f"<figcaption><b>{escape(self.sampler)}</b> {escape(said)}<br>{escape(numbers)}</figcaption>"


def read_results(folders: list[Path], axes: tuple[str, ...]) -> list[Result]:
    """Results of finished points, each compared with the ancestral one of its numbers."""
    results = []
    for folder in folders:
        sample, scores = read_json(folder / "sample.json"), folder / "scores.json"
        swept = {axis: find(sample["options"], axis) for axis in axes}
        values = {axis: str(value) for axis, value in swept.items() if value is not None}
        results.append(Result(folder, values, sample, read_json(scores) if scores.is_file() else {}))
    plain = {tuple(r.numbers.items()): r.folder for r in results if r.is_ancestral}
    partners = [plain.get(tuple(r.numbers.items())) for r in results]
    same = [None if p is None else equal_codes(r.folder, p) for r, p in zip(results, partners, strict=True)]
    return [Result(r.folder, r.values, r.sample, r.scored, s) for r, s in zip(results, same, strict=True)]


@cache
def equal_codes(mine: Path, theirs: Path) -> np.ndarray:
    """bool [num_images] of two finished points: all codes of the image are equal."""
    with np.load(mine / "codes.npz") as a, np.load(theirs / "codes.npz") as b:
        count = len(a["codes"])
        return (a["codes"] == b["codes"]).reshape(count, -1).all(1)


# ----------------------------------------------------------------------------------------------------------------- rows


def row_of(result: Result) -> dict[str, Any]:
    """The numbers of sweep.csv but for the swept options; None is an empty cell."""
    cost, options = result.sample["trace"], result.sample["options"]
    return {
        "law": result.sample["law"],
        "num_images": options["num_images"],
        "batch_size": options["batch_size"],
        "nfe_per_image": cost["nfe_per_image"],
        "tokens_fed_per_image": cost["tokens_fed_per_image"],
        "step_compression_mean_of_ratios": cost["step_compression"]["mean_of_ratios"],
        "step_compression_ratio_of_means": cost["step_compression"]["ratio_of_means"],
        "acceptance": cost["accepted"],
        "variation_per_image": cost["variation_per_image"],
        "draft_cost": cost["draft_cost"],
        "seconds_per_image": cost["seconds_per_image"],
        "identical_to_ancestral": None if result.same is None else int(result.same.sum()),
        **{name: score["value"] for name, score in result.scores.items()},
    }


def to_csv(results: list[Result], axes: tuple[str, ...]) -> str:
    """A line a point: its folder's name, the swept options, the numbers in full."""
    rows = [{"point": r.folder.name, **{a: r.values.get(a) for a in axes}, **row_of(r)} for r in results]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# ---------------------------------------------------------------------------------------------------------------- table


def cells(results: list[Result], axes: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Heads and rounded cells for a person; columns in which nobody has anything are left out."""
    rows = [{**{a: r.values.get(a, "-") for a in axes}, **_rounded(r)} for r in results]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    told = [head for head in heads if any(row.get(head, "-") != "-" for row in rows)]
    return told, [[row.get(head, "-") for head in told] for row in rows]


def _rounded(result: Result) -> dict[str, str]:
    row, images = row_of(result), result.sample["options"]["num_images"]
    same, saved = row["identical_to_ancestral"], row["step_compression_mean_of_ratios"]
    return {
        "law": row["law"],
        "NFE": f"{row['nfe_per_image']:.4g}",
        "tokens fed": f"{row['tokens_fed_per_image']:,.0f}",
        "step compression": "-" if saved is None else f"{saved:.2f}",
        "accepted": "-" if row["acceptance"] is None else f"{row['acceptance']:.1%}",
        "total variation": "-" if row["variation_per_image"] is None else f"{row['variation_per_image']:.3g}",
        "draft cost": f"{row['draft_cost']:.2g}" if row["draft_cost"] else "-",
        "ms": f"{row['seconds_per_image'] * 1e3:.3g}",
        "as ancestral": "-" if same is None or result.is_ancestral else f"{same}/{images}",
        **{name: f"{score['value']:.3g}" for name, score in result.scores.items()},
    }


MEANINGS = {
    "law": "exact = the unit's own law; relaxed = spends total variation; approximate = no law is claimed",
    "NFE": "forward passes an image",
    "tokens fed": "places the network read an image, both guided streams counted",
    "step compression": "ancestral's passes over this sampler's, mean over images",
    "accepted": "share of the drafts that were put to the test",
    "total variation": "certified budget an image: sum over tests of the distance from the target's law",
    "draft cost": "the drafting network's compute over the target's",
    "ms": "milliseconds an image",
    "as ancestral": "images whose codes all equal those of sampler=ancestral with the same numbers",
}


def to_markdown(results: list[Result], axes: tuple[str, ...], notes: list[str]) -> list[str]:
    """The table, what its columns are, and notes."""
    heads, rows = cells(results, axes)
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in [heads, ["---"] * len(heads), *rows]]
    meanings = [f"- {head}: {MEANINGS[head]}" for head in heads if head in MEANINGS]
    return [*(f"| {line} |" for line in lines), "", *meanings, *(f"- {note}" for note in notes)]
