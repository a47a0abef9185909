"""Conformance: are the numbers of ADM's own sample files the published ones?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointillist.configs.options import ROOT, read_yaml
from pointillist.evaluation.tables import Cell, Column, Table, in_order, title

SHIPPED = ROOT / "evaluation" / "conformance.yaml"
SUITES = {"adm_fp16": "adm", "fp32": "pytorch"}  # option of precision_recall -> whose numbers to expect


@dataclass(frozen=True)
class Row:
    """A pair of ADM's files and what is known of it.

    addresses  file name -> where to download it
    expected   suite ("adm" | "pytorch") -> score -> {"value", "tolerance"}, as `judge` reads it
    """

    name: str
    samples: str
    reference: str
    addresses: dict[str, str]
    expected: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Verdict:
    """One score; `measured` and `difference` (measured - expected) are None where it was not measured."""

    score: str
    expected: float
    measured: float | None
    difference: float | None
    tolerance: float
    passed: bool


def read_rows(path: str | Path = SHIPPED) -> dict[str, Row]:
    """Name -> row of conformance.yaml."""
    whole = read_yaml(path)
    rows = {}
    for name, values in whole["rows"].items():
        samples, reference = values["samples"], values["reference"]
        expected = {
            suite: {
                score: {"value": value, "tolerance": _tolerance(whole["tolerances"][score], value)}
                for score, value in values[suite].items()
            }
            for suite in SUITES.values()
        }
        addresses = {Path(file).name: f"{whole['files']}/{file}" for file in (samples, reference)}
        rows[name] = Row(name, Path(samples).name, Path(reference).name, addresses, expected)
    return rows


def _tolerance(given: float | str, value: float) -> float:
    """0.005, or "0.1 %" of the value."""
    return float(given.removesuffix("%")) / 100 * value if isinstance(given, str) else float(given)


def judge(expected: dict[str, dict[str, float]], measured: dict[str, dict[str, Any]]) -> list[Verdict]:
    """A verdict a score that is expected: score -> {"value", "tolerance"}, held against "scores" of scores.json.

    A score that was not measured, or is not a number, has not passed.
    """
    verdicts = []
    for score in in_order(expected):
        value, tolerance = expected[score]["value"], expected[score]["tolerance"]
        got = measured.get(score, {}).get("value")
        apart = None if got is None else got - value
        passed = apart is not None and math.isfinite(apart) and abs(apart) <= tolerance
        verdicts.append(Verdict(score, value, got, apart, tolerance, passed))
    return verdicts


def table(verdicts: list[Verdict]) -> Table:
    """score | expected | measured | difference | tolerance | pass."""
    columns = [Column("score", words=True), *map(Column, ("expected", "measured", "difference", "tolerance"))]
    rows = [
        [
            Cell(title(v.score), v.score),
            Cell(f"{v.expected:.5f}", v.expected),
            Cell() if v.measured is None else Cell(f"{v.measured:.5f}", v.measured),
            Cell() if v.difference is None else Cell(f"{v.difference:+.5f}", v.difference),
            Cell(f"{v.tolerance:.3f}", v.tolerance),
            Cell("pass" if v.passed else "FAIL", v.passed),
        ]
        for v in verdicts
    ]
    return Table([*columns, Column("pass", words=True)], rows)
