"""Where in an image drafts are rejected and total variation is spent: maps over the grid of codes, for the report."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from math import ceil, isqrt, prod
from pathlib import Path

from pointillist.sweeps.charts import heat
from pointillist.sweeps.results import Result

Values = list[float | None]  # by slot; None = no draft was tested there


def maps(results: list[Result], least: float) -> str:
    """A map for every point whose sampler tests drafts; a second where it spends more than `least` an image."""
    tested = [r for r in results if r.sample["trace"]["by_slot"]]
    rates = {r.folder: rejected(r) for r in tested}
    spends = {r.folder: spent(r) for r in tested if r.sample["trace"]["variation_per_image"] > least}
    blocks = [
        _maps(tested, rates, "Rejected share of the drafts tested at a slot", lambda v: f"{v:.1%}"),
        _maps(tested, spends, "Total variation an image spent at a slot", lambda v: f"{v:.3g}"),
    ]
    return "".join(blocks)


def rejected(result: Result) -> Values:
    by_slot = result.sample["trace"]["by_slot"]
    return [r / v if v else None for r, v in zip(by_slot["rejected"], by_slot["verified"], strict=True)]


def spent(result: Result) -> Values:
    """An image's share."""
    trace = result.sample["trace"]
    pairs = zip(trace["by_slot"]["variation"], trace["by_slot"]["verified"], strict=True)
    return [variation / trace["images"] if tested else None for variation, tested in pairs]


def _maps(tested: list[Result], values: dict[Path, Values], title: str, tell: Callable[[float], str]) -> str:
    if not any(v is not None for found in values.values() for v in found):
        return ""
    span = middle([v for found in values.values() for v in found if v is not None])
    figures = []
    for r in tested:
        if r.folder in values:
            found = [v for v in values[r.folder] if v is not None]
            said = f"mean {tell(sum(found) / len(found))}" if found else "never tested"
            chart = heat(on_grids(values[r.folder], r.sample["spec"]["grids"]), span, f"{title}, {r.folder.name}", tell)
            figures.append((r.sampler, f"<figure>{r.caption(said)}{chart}</figure>"))
    ends = f'{escape(tell(span[0]))} or less <span class="ramp"></span> {escape(tell(span[1]))} or more'
    return f'<h3>{escape(title)}</h3><p class="quiet">{ends}</p>{multiples(figures)}'


def multiples(figures: list[tuple[str, str]]) -> str:
    """Small charts (sampler, figure): a row for each sampler, or one block where each has a single one."""
    rows: dict[str, list[str]] = {}
    for sampler, figure in figures:
        rows.setdefault(sampler, []).append(figure)
    alone = all(len(row) == 1 for row in rows.values())
    blocks = [[figure for _, figure in figures]] if alone else rows.values()
    return "".join(f'<div class="small">{"".join(block)}</div>' for block in blocks if block)


def middle(values: list[float]) -> tuple[float, float]:
    """What all but a twentieth at either end lie between: a few slots that are always rejected should not hide the
    differences of the others."""
    ordered = sorted(values)
    cut = len(ordered) // 20
    return ordered[cut], ordered[-1 - cut]


def on_grids(values: list, grids: list[list[int]]) -> list[list[list]]:
    """Values of slots as rows of each grid; a unit with more slots than codes (coarse patches) gets one square."""
    sizes = [prod(grid) for grid in grids]
    if sum(sizes) != len(values):
        columns = isqrt(len(values) - 1) + 1
        grids, sizes = [[ceil(len(values) / columns), columns]], [len(values)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    found = []
    for start, size, grid in zip(starts, sizes, grids, strict=True):
        part, columns = values[start : start + size], grid[-1]
        found.append([part[i : i + columns] for i in range(0, size, columns)])
    return found
