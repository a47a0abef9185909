"""Tables of scores: the same cells as aligned Markdown, as CSV (RFC 4180) and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from pointillist.configs.options import did_you_mean

NOTHING = "-"
# In the order of a paper's table. Names that are not here stand behind these, as they are.
TITLES = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "kid": "KID",
    "mind": "MIND",
    "cmmd": "CMMD",
    "fd_dinov2": "FD-DINOv2",
    "fid_infinity": "FID-infinity",
    "rfid": "rFID",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (alex)",
    "lpips_vgg": "LPIPS (vgg)",
    "code_usage": "codes used",
    "code_perplexity": "perplexity",
    "pfid": "pFID",
}
HIGHER_IS_BETTER = {"is", "precision", "recall", "density", "coverage", "class_agreement", "psnr", "ssim"}
HIGHER_IS_BETTER |= {"perturbed_psnr", "code_usage", "code_entropy", "code_entropy_share", "code_perplexity"}


@dataclass(frozen=True)
class Column:
    """`key` names it in a CSV, `title` everywhere else; words stand left, numbers right."""

    key: str
    title: str = ""
    words: bool = False


@dataclass(frozen=True)
class Cell:
    """
    text    for a person
    value   for a CSV: the number in full; None = empty
    more    more numbers for a CSV, in columns of their own: {"width": 0.02}
    marks   letters of footnotes
    """

    text: str = NOTHING
    value: Any = None
    more: dict[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of cells, one a column; `footnotes` letter -> sentence; `notes` are lines about the whole."""

    columns: list[Column]
    rows: list[list[Cell]]
    footnotes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What stands below the cells."""
        return [*(f"{letter}: {text}" for letter, text in self.footnotes.items()), *self.notes]


class Footnotes:
    """Letters a, b, ... z, aa, ... in the order in which their sentences are first needed."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}
        self.subjects: dict[str, list[str]] = {}

    def mark(self, sentence: str, subject: str = "") -> str:
        """The letter of a sentence; the subjects of all its marks are gathered behind it."""
        if sentence not in self.letters:
            names = ("".join(letters) for n in count(1) for letters in product(ascii_lowercase, repeat=n))
            used = set(self.letters.values())
            self.letters[sentence] = next(name for name in names if name not in used)
        if subject and subject not in self.subjects.setdefault(sentence, []):
            self.subjects[sentence].append(subject)
        return self.letters[sentence]

    def told(self, ending: str = "") -> dict[str, str]:
        """Letter -> sentence, subjects and ending: "count 5000, here 100; FID, IS must not be compared"."""
        subjects = {sentence: ", ".join(self.subjects.get(sentence, [])) for sentence in self.letters}
        return {
            letter: f"{sentence}; {subjects[sentence]} {ending}" if subjects[sentence] else sentence
            for sentence, letter in self.letters.items()
        }


# ---------------------------------------------------------------------------------------------------------------- cells


def title(name: str) -> str:
    return TITLES.get(name, name)


def in_order(names: Collection[str]) -> list[str]:
    """Scores as a paper has them, then those that it has not, as they came."""
    return [n for n in TITLES if n in names] + [n for n in dict.fromkeys(names) if n not in TITLES]


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, never in powers of ten: 3.943, 215.8, 12346."""
    if not math.isfinite(value):
        return str(value)
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(digits - 1 - size, 0), 8)}f}"


def score_cell(entry: dict[str, Any], marks: tuple[str, ...] = ()) -> Cell:
    """A score of scores.json: value and width, or the mean over seeds with their least and standard deviation."""
    value, more = entry["value"], {key: entry[key] for key in ("width", "min", "std") if entry.get(key) is not None}
    text = number(value)
    if "min" in more or "std" in more:
        said = [f"{key} {number(more[key], 4 if key == 'min' else 2)}" for key in ("min", "std") if key in more]
        text += f" ({', '.join(said)}, {len(entry.get('seeds', []))} seeds)"
    elif "width" in more:
        text += f" ± {number(more['width'], 2)}"
    return Cell(text, value, more, marks)


# -------------------------------------------------------------------------------------------------------------- formats


def to_markdown(table: Table) -> str:
    """Padded so that it is read in a terminal as it is; marks are [a,b]; footnotes and notes as a list below."""
    words = [column.words for column in table.columns]
    heads = [_plain(column.title or column.key) for column in table.columns]
    body = [[_plain(cell.text) + _bracketed(cell.marks) for cell in row] for row in table.rows]
    widths = [max(3, *map(len, column)) for column in zip(heads, *body, strict=True)]
    rule = ["-" * width if word else "-" * (width - 1) + ":" for width, word in zip(widths, words, strict=True)]
    rows = [
        [text.ljust(width) if word else text.rjust(width) for text, width, word in zip(row, widths, words, strict=True)]
        for row in [heads, *body]
    ]
    lines = [f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]]
    notes = [f"- {' '.join(line.split())}" for line in table.lines()]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _bracketed(marks: tuple[str, ...]) -> str:
    return f" [{','.join(marks)}]" if marks else ""


def to_csv(table: Table) -> str:
    """A line a row, numbers in full; widths and the like in columns behind their score, footnotes in the last one.

    Notes about the whole have no place in it.
    """
    heads, beside = [], []
    for i, column in enumerate(table.columns):
        beside.append(list(dict.fromkeys(key for row in table.rows for key in row[i].more)))
        heads += [column.key, *(f"{column.key} {key}" for key in beside[i])]
    marked = [""] if any(cell.marks for row in table.rows for cell in row) else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*heads, *("footnotes" for _ in marked)])
    for row in table.rows:
        values = [x for cell, keys in zip(row, beside, strict=True) for x in [cell.value, *map(cell.more.get, keys)]]
        writer.writerow([*values, *(_footnotes(table, row) for _ in marked)])
    return text.getvalue()


def _footnotes(table: Table, row: list[Cell]) -> str:
    """ "FID, IS: count 50000, here 5000 | ..." of one row."""
    marked: dict[str, list[str]] = {}
    for column, cell in zip(table.columns, row, strict=True):
        for letter in cell.marks:
            marked.setdefault(letter, []).append(column.key)
    return " | ".join(f"{', '.join(keys)}: {table.footnotes[letter]}" for letter, keys in marked.items())


def to_latex(table: Table) -> str:
    """A tabular with its rules, for a preamble that loads booktabs; footnotes and notes follow in small print."""
    align = "".join("l" if column.words else "r" for column in table.columns)
    body = [[_latex(cell.text) + _superscript(cell.marks) for cell in row] for row in table.rows]
    heads = [_latex(column.title or column.key) for column in table.columns]
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{align}}}",
        "\\toprule",
        " & ".join(heads) + " \\\\",
        "\\midrule",
        *(" & ".join(row) + " \\\\" for row in body),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    notes = [f"$^{{{letter}}}$ {_latex(text)}" for letter, text in table.footnotes.items()] + [
        *map(_latex, table.notes)
    ]
    return "\n".join([*lines, *(f"\\par{{\\footnotesize {note}\\par}}" for note in notes)]) + "\n"


ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "[": "{[}",  # behind \\ a bracket would be an option
    "]": "{]}",
}


def _latex(text: str) -> str:
    text = " ".join(text.split())
    if text == NOTHING:
        return "--"
    if re.fullmatch(r"[+-]\d+(\.\d+)?", text):
        return f"${text}$"
    return "".join(ESCAPES.get(c, c) for c in text)


def _superscript(marks: tuple[str, ...]) -> str:
    return f"$^{{{','.join(marks)}}}$" if marks else ""


# ---------------------------------------------------------------------------------------------------------------- files

FORMATS: dict[str, Callable[[Table], str]] = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}
SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


def format_of(out: str, format: str = "") -> str:
    """markdown | csv | latex: what is asked for, else what the file's name says, else markdown."""
    allowed, got = [*FORMATS], format or (SUFFIXES.get(Path(out).suffix.lower(), "") if out else "markdown")
    if format and format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(allowed)}, got '{format}'{did_you_mean(format, allowed)}")
    if not got:
        raise ValueError(f"out={out} must end in {', '.join(SUFFIXES)}: that is the table's format")
    return got
