"""Compare score files, and mark what must not be compared.

    python evaluate.py compare A B ... [option=value ...]

    python evaluate.py compare runs/emoji/par/samples runs/emoji/token/samples
    python evaluate.py compare a/scores.json b/scores.json to=b/scores.json strict=true out=table.tex

A, B, ... are score files or folders that hold one. A row is a file, a column a score with its width; several seeds show
their mean, least value and standard deviation. Each row's protocol is held against that of the first row (or of `to`);
a value whose protocol differs in something that concerns it gets a letter, and a line below names the difference. Where
that row has not the score, the first row that has it stands in.
"""

from __future__ import annotations

from dataclasses import dataclass

from pointillist.configs.files import write_whole
from pointillist.configs.options import option
from pointillist.evaluation.protocol import branches, concerns, differences, sentence
from pointillist.evaluation.results import Result, every, heldout, one, read_all
from pointillist.evaluation.tables import (
    FORMATS,
    Cell,
    Column,
    Footnotes,
    Table,
    format_of,
    in_order,
    score_cell,
    title,
)


@dataclass
class Options:
    to: str = option("", "the score file that the others are held against; default: the first")
    strict: bool = option(False, "a difference that would be marked is an error")
    out: str = option("", "write the table to this file: .md, .csv or .tex")


def main(targets: list[str], options: Options) -> None:
    format = format_of(options.out)
    table = compare(read_targets(targets, options.to), options.strict)
    print(FORMATS["markdown"](table), end="")
    if options.out:
        write_whole(options.out, FORMATS[format](table))
        print(f"written: {options.out}")


def read_targets(targets: list[str], to: str) -> list[Result]:
    """The score files, the one that others are held against first. Raises ValueError for fewer than two."""
    paths = every([str(one(target)) for target in ([to] if to else []) + targets])
    if len(paths) < 2:
        raise ValueError(f"compare needs two different score files, got {', '.join(map(str, paths)) or 'none'}")
    return read_all(paths)


def compare(results: list[Result], strict: bool = False) -> Table:
    """A row a result, in order; the first is the standard.

    Raises ValueError where `strict` and something would be marked.
    """
    footnotes, names = Footnotes(), in_order([name for result in results for name in result.scores])
    first = results[0]
    rows = []
    for result in results:
        # Another suite is another way of measuring altogether: it marks the row, also where no score is shared.
        suites = {k: v for k, v in differences(first.card, result.card).items() if k == "suite"}
        row = [Cell(result.name, result.name, marks=_marks(footnotes, suites, first, first))]
        row.append(_count(result))
        for name in names:
            standard = first if name in first.scores else next(r for r in results if name in r.scores)
            row.append(_score(result, standard, first, name, footnotes))
        rows.append(row)
    told = footnotes.told("must not be compared")
    if strict and told:
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        raise ValueError(f"these scores are not comparable: {next(iter(told.values()))}{more}")
    columns = [Column("run", words=True), Column("N"), *(Column(name, title(name)) for name in names)]
    notes = [note for result in results for note in result.notes()]
    return Table(columns, rows, told, list(dict.fromkeys([*heldout(results), *notes])))


def _count(result: Result) -> Cell:
    count = result.card.get("count")
    return Cell() if count is None else Cell(str(count), count)


def _score(result: Result, standard: Result, first: Result, name: str, footnotes: Footnotes) -> Cell:
    if name not in result.scores:
        return Cell()
    found = differences(standard.card, result.card)
    found = {key: pair for key, pair in found.items() if concerns(key, name)}
    return score_cell(result.scores[name], _marks(footnotes, found, standard, first, title(name)))


def _marks(footnotes: Footnotes, found: dict, standard: Result, first: Result, subject: str = "") -> tuple[str, ...]:
    """A letter a branch of the card; what is not held against the first row says against which."""
    beside = "" if standard is first else f" (against {standard.name})"
    return tuple(footnotes.mark(sentence(branch) + beside, subject) for branch in branches(found))
