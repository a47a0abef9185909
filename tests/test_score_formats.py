"""Tables of scores as Markdown, CSV and LaTeX: nothing that stands in a cell breaks the table."""

from __future__ import annotations

import csv
import io
import math
import re

from pointillist.evaluation.tables import (
    Cell,
    Column,
    Footnotes,
    Table,
    format_of,
    number,
    score_cell,
    to_csv,
    to_latex,
    to_markdown,
)

AWKWARD = Table(
    [Column("run", words=True), Column("fid_infinity")],
    [
        [Cell("a_b & 50% | $x$ #1 {z} ~^\\ <", "a_b, \"q\""), Cell("3.94 ± 0.02", 3.94, {"width": 0.02}, ("a", "b"))],
        [Cell("[c]\nd", "c\nd"), Cell("-1.20", -1.2)],
        [Cell("e", "e"), Cell()],
    ],
    {"a": "x_1 & y", "b": "z"},
    ["50% of it"],
)  # fmt: skip


def test_latex_is_escaped():
    text = to_latex(AWKWARD)
    assert text.splitlines()[:5] == [
        "% \\usepackage{booktabs}", "\\begin{tabular}{lr}", "\\toprule", "run & fid\\_infinity \\\\", "\\midrule"
    ]  # fmt: skip
    assert (
        "a\\_b \\& 50\\% \\textbar{} \\$x\\$ \\#1 \\{z\\} \\textasciitilde{}\\textasciicircum{}\\textbackslash{} "
        "\\textless{} & 3.94 $\\pm$ 0.02$^{a,b}$ \\\\"
    ) in text
    assert "{[}c{]} d & $-1.20$ \\\\" in text and "e & -- \\\\" in text
    assert "\\par{\\footnotesize $^{a}$ x\\_1 \\& y\\par}" in text and "50\\% of it" in text
    for line in text.splitlines()[1:]:
        bare = re.sub(r"\\textbackslash\{\}|\\[&%$#_{}]", "", line)
        assert "%" not in bare and "#" not in bare and "_" not in bare, line
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0, line


def test_csv_survives_quotes_commas_and_line_breaks():
    text = to_csv(AWKWARD)
    first, second, third = csv.DictReader(io.StringIO(text, newline=""))
    assert first == {"run": 'a_b, "q"', "fid_infinity": "3.94", "fid_infinity width": "0.02",
                     "footnotes": "fid_infinity: x_1 & y | fid_infinity: z"}  # fmt: skip
    assert second["run"] == "c\nd" and third["fid_infinity"] == third["footnotes"] == ""
    assert text.endswith("\r\n")


def test_markdown_keeps_its_columns():
    lines = to_markdown(AWKWARD).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines[:5])
    assert re.fullmatch(r"\| -+ \| -+: \|", lines[1]) and lines[2].endswith("3.94 ± 0.02 [a,b] |")
    assert lines[5:] == ["", "- a: x_1 & y", "- b: z", "- 50% of it"]


def test_numbers_have_four_digits_and_no_powers():
    shown = {3.94256: "3.943", 215.837: "215.8", 0.8265: "0.8265", 12345.6: "12346", 0.00123456: "0.001235", 0: "0.000"}
    assert {value: number(value) for value in shown} == shown
    assert number(-3.94256) == "-3.943" and number(math.nan) == "nan"
    assert score_cell({"value": 3.9426, "width": 0.0213}).text == "3.943 ± 0.021"


def test_letters_go_on_after_z():
    footnotes = Footnotes()
    letters = [footnotes.mark(str(i)) for i in range(28)]
    assert letters[0] == "a" and letters[25:] == ["z", "aa", "ab"] and footnotes.mark("3") == "d"


def test_formats_by_suffix():
    assert [format_of(out) for out in ("", "a.md", "a.CSV", "b/a.tex")] == ["markdown", "markdown", "csv", "latex"]
