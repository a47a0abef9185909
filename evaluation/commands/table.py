"""Collect score files into one table, with published values beside the measured ones.

    python evaluate.py table RUNS ... [option=value ...]

    python evaluate.py table runs
    python evaluate.py table runs/llamagen-l runs/randar-xl sort=fid out=table.tex
    python evaluate.py table runs format=csv > table.csv

RUNS are score files or folders in and below which they lie. A file whose images were made to repeat a published row
names it (samples.published); that row is looked up in configs/imagenet and evaluation/published.yaml, or in the file
`published`, and stands beside with the difference, measured - published. A letter marks what cannot equal its published
value, or is only recalled from the paper. Offline scores have a table of their own: they never stand beside others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pointillist.configs.files import write_whole
from pointillist.configs.options import did_you_mean, option
from pointillist.evaluation.protocol import ADM, branches, concerns, departures, sentence
from pointillist.evaluation.published import Published, read_published
from pointillist.evaluation.results import Result, every, heldout, read_all
from pointillist.evaluation.tables import (
    FORMATS,
    HIGHER_IS_BETTER,
    Cell,
    Column,
    Footnotes,
    Table,
    format_of,
    in_order,
    score_cell,
    title,
)

DECIMALS = {"fid": 2, "sfid": 2, "is": 1, "precision": 2, "recall": 2}  # as papers print them
RECALLED = "recalled from the paper, to be verified"
WHY = {
    "count": "published with another number of images",
    "label_policy": "published with other class labels",
    "pixels": "published at another size",
    "networks": "not the published weights",
    "reference": "not ADM's reference",
    "scores": "published with other options",
}
USUAL = {"guidance": "1", "temperature": "1", "top_k": "0", "top_p": "1", "min_p": "0"}  # of a request: said if other


@dataclass
class Options:
    format: str = option("", "markdown | csv | latex; default: what `out` ends in, else markdown")
    out: str = option("", "write the table to this file: .md, .csv or .tex")
    published: str = option("", "file of published rows; default: those that ship")
    sort: str = option("name", "name, or a score such as fid: the best first")


def main(targets: list[str], options: Options) -> None:
    if not targets:
        raise ValueError("which runs? python evaluate.py table RUNS ... [option=value ...]; --help explains")
    format = format_of(options.out, options.format)
    table = collect(read_all(every(targets)), read_published(options.published), options.sort)
    text = FORMATS[format](table)
    if options.out:
        write_whole(options.out, text)
        print(f"{len(table.rows)} rows written: {options.out}")
    else:
        sys.stdout.write(text)
    if format == "csv":  # which has no place for them
        print("".join(f"{note}\n" for note in table.notes), end="", file=sys.stderr)


def collect(results: list[Result], published: dict[str, Published], sort: str = "name") -> Table:
    """A row a result. Raises ValueError for a published row or a score to sort by that does not exist."""
    shown = [r for r in results if not r.is_offline] or results
    left_out = len(results) - len(shown)
    rows_of = {r: row for r in shown if not r.is_offline and (row := row_of(r, published))}
    names = in_order([name for r in shown for name in r.scores] + [n for row in rows_of.values() for n in row.scores])
    beside = {name for row in rows_of.values() for name in row.scores}
    columns = [Column("name", words=True), Column("sampler", words=True), Column("N")]
    columns += [Column("published row", words=True)] if beside else []
    for name in names:
        columns.append(Column(name, title(name)))
        if name in beside:
            columns += [Column(f"{name} published", "published"), Column(f"{name} difference", "difference")]
    footnotes, rows = Footnotes(), []
    for r in in_sequence(shown, sort, names):
        row = [Cell(r.name, r.name), _text(describe(r.samples.get("run"))), _text(r.card.get("count"))]
        row += [_text(r.samples.get("published"))] if beside else []
        for name in names:
            row += _beside(r, name, rows_of.get(r), footnotes) if name in beside else [_measured(r, name)]
        rows.append(row)
    notes = heldout(shown) + [note for r in shown for note in r.notes()]
    if left_out:
        notes.append(f"left out: offline scores of {left_out} runs, which never stand beside others; name only them")
    return Table(columns, rows, footnotes.told(), list(dict.fromkeys(notes)))


def row_of(result: Result, published: dict[str, Published]) -> Published | None:
    """The published row that the result names, None without a name."""
    name = result.samples.get("published")
    if name is not None and name not in published:
        hint = did_you_mean(str(name), [*published]) or f". They are {', '.join(published)}"
        raise ValueError(f"{result.path} names the published row '{name}', which is not among the published{hint}")
    return published[name] if name is not None else None


def in_sequence(results: list[Result], sort: str, names: list[str]) -> list[Result]:
    """By name, or by a score, the best first and who has none last."""
    if sort == "name":
        return sorted(results, key=lambda r: r.name)
    if sort not in names:
        raise ValueError(f"sort must be one of {', '.join(['name', *names])}, got '{sort}'{did_you_mean(sort, names)}")
    sign = -1 if sort in HIGHER_IS_BETTER else 1
    return sorted(results, key=lambda r: (sort not in r.scores, sign * r.scores.get(sort, {}).get("value", 0), r.name))


# ---------------------------------------------------------------------------------------------------------------- cells


def _text(value: Any) -> Cell:
    return Cell() if value in (None, "") else Cell(str(value), value)


def _measured(result: Result, name: str, marks: tuple[str, ...] = ()) -> Cell:
    return score_cell(result.scores[name], marks) if name in result.scores else Cell()


def _beside(result: Result, name: str, row: Published | None, footnotes: Footnotes) -> list[Cell]:
    """Measured, published, difference. What keeps the two apart marks the measured value, or, where there is none, the
    published one."""
    marks = tuple(_apart(result, name, row, footnotes))
    if row is None or name not in row.scores:
        return [_measured(result, name, marks), Cell(), Cell()]
    value, digits = row.scores[name], DECIMALS[name]
    recalled = (footnotes.mark(RECALLED),) if row.certainty[name] != "readme" else ()
    if name not in result.scores:
        return [Cell(), Cell(f"{value:.{digits}f}", value, marks=recalled + marks), Cell()]
    apart = result.scores[name]["value"] - value
    told = Cell(f"{value:.{digits}f}", value, marks=recalled)
    return [_measured(result, name, marks), told, Cell(f"{apart:+z.{digits}f}", apart)]


def _apart(result: Result, name: str, row: Published | None, footnotes: Footnotes) -> Iterator[str]:
    """A letter a branch of the card in which the result is not as published rows are."""
    found = departures(row.protocol() if row else ADM, result.card)
    found = {key: pair for key, pair in found.items() if concerns(key, name) and pair[1] != "no labels"}
    if name not in result.scores:  # it may have been measured, but under another name
        found = {key: pair for key, pair in found.items() if key.startswith("networks.") and pair[1] is False}
    for branch in branches(found):
        why = WHY[next(iter(branch)).partition(".")[0]]
        yield footnotes.mark(f"{why} ({sentence(branch)})")


def describe(run: dict[str, Any] | None) -> str:
    """ "step 798, jacobi, guidance 2": checkpoint, sampler and what of the request is not usual; "" if unknown."""
    if not run:
        return ""
    checkpoint, request = run.get("checkpoint"), run.get("request") or {}
    said = [f"step {checkpoint['step']}"] if isinstance(checkpoint, dict) and "step" in checkpoint else []
    sampler = request.get("sampler")
    if sampler:
        said.append(str(sampler.get("name", "")) if isinstance(sampler, dict) else str(sampler))
    said += [f"{key} {request[key]}" for key, usual in USUAL.items() if _number(request.get(key, usual)) != usual]
    return ", ".join(word for word in said if word)


def _number(value: Any) -> str:
    """2.0 and "2" are the same."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)
