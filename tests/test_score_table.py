"""evaluate.py table, the published rows that stand beside, and ADM's conformance."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest

from pointillist.configs.options import build, load, read_yaml
from pointillist.configs.recipes import recipes
from pointillist.evaluation.commands import table as command
from pointillist.evaluation.commands.table import collect, describe
from pointillist.evaluation.conformance import judge, read_rows
from pointillist.evaluation.conformance import table as verdicts_table
from pointillist.evaluation.published import SCORES, SHIPPED, Published, read_published
from pointillist.evaluation.tables import Cell, Table, to_markdown
from tests.test_compare import OFFLINE, PUBLISHED, TOY, changed, result, write

ROWS = read_published()
LLAMAGEN = changed(changed(PUBLISHED, "samples.published", "llamagen-l-384"), "protocol.label_policy", "not balanced")
FOREIGN = changed(LLAMAGEN, "protocol.reference.moments_of", {"inception/pool": 50000, "inception/spatial": 50000})


def run(*targets, **options) -> None:
    command.main([str(t) for t in targets], load(command.Options, None, [f"{k}={v}" for k, v in options.items()]))


def cells(table: Table, row: int = 0) -> dict[str, Cell]:
    return {column.key: cell for column, cell in zip(table.columns, table.rows[row], strict=True)}


def sentences(table: Table, row: int = 0) -> dict[str, list[str]]:
    """Column -> its footnotes, those that say only where a published value is from aside."""
    told = {key: [table.footnotes[letter] for letter in cell.marks] for key, cell in cells(table, row).items()}
    told = {key: [line for line in lines if "recalled" not in line] for key, lines in told.items()}
    return {key: lines for key, lines in told.items() if lines}


# ----------------------------------------------------------------------------------------------------- published values


def test_published_values_stand_beside_with_the_difference():
    table = collect([result(LLAMAGEN)], ROWS)
    row = cells(table)
    for score, published in {"fid": 3.07, "is": 256.06, "precision": 0.83, "recall": 0.52}.items():
        measured = LLAMAGEN["scores"][score]["value"]
        assert row[f"{score} published"].value == published
        assert row[f"{score} difference"].value == pytest.approx(measured - published, abs=1e-12)
    assert row["fid difference"].text == "+0.87" and row["is difference"].text == "-40.2"
    assert row["fid"].text == "3.943 ± 0.021" and row["N"].value == 50000
    assert "sfid" in row and "sfid published" not in row, "nobody published it"
    assert row["published row"].text == "llamagen-l-384"
    assert sentences(table) == {}
    close = collect([result(changed(LLAMAGEN, "scores.fid.value", 3.0699))], ROWS)
    assert cells(close)["fid difference"].text == "+0.00", "no -0.00"


def test_the_512_reference_holds_fewer_images():
    whole = changed(changed(LLAMAGEN, "samples.published", "var-d36-512"), "protocol.label_policy", "balanced")
    whole = changed(changed(whole, "protocol.pixels.size", 512), "protocol.reference.image_count", 1000)
    table = collect([result(whole, "a"), result(LLAMAGEN, "b")], ROWS)
    assert sentences(table, 0) == sentences(table, 1) == {}


def test_values_from_memory_say_so():
    row, table = cells(collect([result(LLAMAGEN)], ROWS)), collect([result(LLAMAGEN)], ROWS)
    assert row["fid published"].marks == () and row["is published"].marks == ("a",)
    assert table.footnotes == {"a": "recalled from the paper, to be verified"}


def test_rows_without_a_published_one_have_empty_cells():
    table = collect([result(PUBLISHED, "own"), result(LLAMAGEN, "theirs")], ROWS)
    assert cells(table, 0)["fid published"].text == "-" and cells(table, 0)["fid"].value == 3.9426
    alone = collect([result(PUBLISHED)], ROWS)
    assert not any("published" in column.key for column in alone.columns)


APART = [
    ("protocol.count", 5000, "another number of images (count 50000, here 5000)", {"fid", "is", "precision", "recall"}),
    ("protocol.label_policy", "balanced", "other class labels", {"fid", "is", "precision", "recall"}),
    ("protocol.pixels.size", 384, "another size (pixels.size 256, here 384)", {"fid", "is", "precision", "recall"}),
    ("protocol.networks.inception.verified", False, "not the published weights", {"fid", "is", "precision", "recall"}),
    ("protocol.reference.moments_of.inception/pool", 50000, "not ADM's reference", {"fid"}),
    ("protocol.reference.image_count", 50000, "not ADM's reference", {"precision", "recall"}),
    ("protocol.scores.precision_recall.k", 5, "other options (scores.precision_recall.k 3", {"precision", "recall"}),
]  # fmt: skip


@pytest.mark.parametrize("key, value, why, columns", APART, ids=[case[0] for case in APART])
def test_what_cannot_equal_the_published_value_is_marked(key, value, why, columns):
    said = sentences(collect([result(changed(LLAMAGEN, key, value))], ROWS))
    assert said.keys() == columns
    assert all(why in line for lines in said.values() for line in lines)


@pytest.mark.parametrize("key, value", [
    ("protocol.label_policy", "no labels"),  # an .npz without them may well be as published
    ("protocol.pixels.quantize", "truncate"),  # each row's own
    ("environment.tf32", True),
    ("samples.sha256_of_pixels", "c" * 64),
])  # fmt: skip
def test_what_may_equal_it_is_not_marked(key, value):
    assert sentences(collect([result(changed(LLAMAGEN, key, value))], ROWS)) == {}


def test_rows_of_our_own_are_marked_too_where_published_ones_stand_in_the_column():
    few = changed(PUBLISHED, "protocol.count", 5000)
    said = sentences(collect([result(few, "a"), result(LLAMAGEN, "b")], ROWS), 0)
    assert said.keys() == {"fid", "is", "precision", "recall"}
    assert sentences(collect([result(few, "a")], ROWS)) == {}


def test_scores_of_other_weights_stay_beside_the_published_value_without_a_difference():
    other = changed(LLAMAGEN, "protocol.networks.inception.verified", False)
    other["scores"] = {"frechet(inception-1a2b3c4d)": {"value": 3.0}}
    table = collect([result(other)], ROWS)
    row = cells(table)
    assert row["frechet(inception-1a2b3c4d)"].value == 3.0
    assert row["fid"].value is None and row["fid difference"].value is None and row["fid published"].value == 3.07
    assert sentences(table)["fid published"][0].startswith("not the published weights")


def test_offline_scores_are_refused_beside_others():
    table = collect([result(LLAMAGEN, "b"), result(OFFLINE, "a")], ROWS)
    assert [row[0].text for row in table.rows] == ["b"] and not any(column.key == TOY for column in table.columns)
    assert any(note.startswith("left out: offline scores of 1 runs") for note in table.notes)
    claimed = changed(OFFLINE, "samples.published", "llamagen-l-384")
    table = collect([result(claimed)], ROWS)
    assert [column.key for column in table.columns] == ["name", "sampler", "N", TOY, "copy_rate"]
    assert any("held-out images get 11.23" in note for note in table.notes)


def test_an_unknown_published_row_is_named_with_the_nearest():
    wrong = changed(LLAMAGEN, "samples.published", "llamagen-l-385")
    with pytest.raises(ValueError, match="'llamagen-l-385'.*Did you mean 'llamagen-l-384'"):
        collect([result(wrong)], ROWS)


# ------------------------------------------------------------------------------------------------------ rows and order


def test_the_best_stand_first():
    worse, none = changed(PUBLISHED, "scores.fid.value", 9.0), changed(PUBLISHED, "scores.fid", ...)
    worse = changed(worse, "scores.is.value", 300.0)
    results = [result(worse, "b"), result(none, "a"), result(PUBLISHED, "c")]

    def order(sort):
        return "".join(row[0].text for row in collect(results, ROWS, sort).rows)

    assert order("name") == "abc" and order("fid") == "cba" and order("is") == "bac"
    with pytest.raises(ValueError, match="sort must be one of name, fid, .*Did you mean 'fid'"):
        order("fidd")


def test_the_sampler_is_told_by_what_is_not_usual():
    request = {"sampler": {"name": "jacobi", "window": 8}, "guidance": "1.5", "top_k": "0", "temperature": 1.0}
    assert describe({"checkpoint": {"path": "x", "step": 7}, "request": request}) == "step 7, jacobi, guidance 1.5"
    assert (
        describe({"checkpoint": {"step": 7}, "request": {"guidance": "1..4:linear"}}) == "step 7, guidance 1..4:linear"
    )
    assert describe(None) == describe({"request": None}) == ""


# ------------------------------------------------------------------------------------------------------------- command


def test_files_are_found_below_folders_and_each_is_one_row(tmp_path, capsys):
    a = write(tmp_path / "runs/a/samples/scores.json", LLAMAGEN)
    write(tmp_path / "runs/b/samples/scores-raw.json", LLAMAGEN)
    (tmp_path / "runs/b/samples/other.json").write_text("{")  # nobody's business
    run(tmp_path / "runs", a)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["a/samples", "b/samples/scores-raw"]
    assert lines[4] == "" and len({len(line) for line in lines[:4]}) == 1


@pytest.mark.parametrize("words", [{"out": "table.tex"}, {"out": "table.txt", "format": "latex"}])
def test_the_format_is_asked_for_or_the_file_s(tmp_path, capsys, words):
    a = write(tmp_path / "scores.json", LLAMAGEN)
    run(a, **{**words, "out": tmp_path / words["out"]})
    assert "\\toprule" in (tmp_path / words["out"]).read_text() and "1 rows written" in capsys.readouterr().out


def test_a_csv_on_the_screen_is_nothing_else(tmp_path, capsys):
    run(write(tmp_path / "a/scores.json", LLAMAGEN), write(tmp_path / "b/scores.json", OFFLINE), format="csv")
    shown = capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO(shown.out))
    assert float(row["fid difference"]) == pytest.approx(0.8726) and "left out" in shown.err


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    a = write(tmp_path / "scores.json", LLAMAGEN)
    (tmp_path / "bad.yaml").write_text("llamagen-l-384: {title: x}\n")
    (tmp_path / "torn.yaml").write_text("a: [\n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/scores.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    cases = [
        ((), {}, "which runs"),
        ((tmp_path / "empty",), {}, "holds no scores"),
        ((tmp_path / "nothing",), {}, "there is no"),
        ((tmp_path / "bad",), {}, "bad/scores.json has no scores"),
        ((a,), {"format": "latx"}, "one of markdown, csv, latex, got .*Did you mean 'latex'"),
        ((a,), {"out": "table.html"}, "must end in"),
        ((a,), {"published": tmp_path / "nothing.yaml"}, "no file .*nothing.yaml of published rows"),
        ((a,), {"published": tmp_path / "bad.yaml"}, "bad.yaml: llamagen-l-384"),
        ((a,), {"published": tmp_path / "torn.yaml"}, "not valid YAML"),
    ]
    for targets, options, message in cases:
        with pytest.raises((ValueError, OSError), match=message) as caught:
            run(*targets, **options)
        assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- shipped rows


def test_shipped_rows_are_valid_and_plausible():
    assert {"LlamaGen", "NPP", "PAR", "RandAR", "VAR", "RAR", "TiTok", "xAR", "MAR"} <= {
        r.family for r in ROWS.values()
    }
    ranges = {"fid": (1, 10), "is": (100, 400), "precision": (0.7, 0.9), "recall": (0.4, 0.7)}
    for name, row in ROWS.items():
        assert row.title and row.source and row.family and row.image_size in (256, 512), name
        assert row.certainty.keys() == row.scores.keys() and "fid" in row.scores, name
        for score, value in row.scores.items():
            low, high = ranges[score]
            assert low < value < high and score in SCORES, (name, score)
        if row.recipe.guidance is not None and row.family != "ARPG":
            assert row.recipe.convention, f"{name} has a guidance of no stated convention"


def test_no_name_is_given_twice_and_merging_changes_no_row():
    """YAML's << hands down whatever a row does not say itself: titles, sizes and scores must be its own."""
    text = SHIPPED.read_text(encoding="utf-8")
    written = re.findall(r"^([\w-]+):", text, re.M)
    assert written == list(read_yaml(SHIPPED)) and len({row.title for row in ROWS.values()}) == len(ROWS)
    others = [row.read_text(encoding="utf-8") for row in recipes().values()]
    for texts, count in (([text], len(written)), (others, len(ROWS) - len(written))):
        assert [sum(t.count(f"\n  {key}: ") for t in texts) for key in ("title", "scores")] == [count, count]


GOOD = {"title": "t", "family": "f", "source": "s", "scores": {"fid": 2.0}, "certainty": {"fid": "readme"}}
WRONG = {
    "unknown key": ({"fdi": 1}, "fdi"),
    "no source": ({"source": ...}, "source"),
    "no number": ({"scores": {"fid": "two"}}, "fid"),
    "unknown score": ({"scores": {"kid": 1.0}, "certainty": {"kid": "readme"}}, "got kid"),
    "no certainty": ({"certainty": {}}, "certainty"),
    "unknown certainty": ({"certainty": {"fid": "sure"}}, "certainty"),
    "no score": ({"scores": {}, "certainty": {}}, "needs a value"),
    "unknown recipe": ({"recipe": {"cfg": 2.0}}, "cfg"),
    "unknown labels": ({"recipe": {"labels": "some"}}, "labels must be"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_rows_are_named(tmp_path, kind):
    changes, message = WRONG[kind]
    row = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    write(tmp_path / "rows.yaml", {"good": GOOD, "wrong": row})  # JSON is YAML
    with pytest.raises(ValueError, match=f"rows.yaml: wrong: .*{message}") as caught:
        read_published(tmp_path / "rows.yaml")
    assert "\n" not in str(caught.value)


def test_a_right_row_is_taken(tmp_path):
    """The control of the above."""
    assert read_published(write(tmp_path / "rows.yaml", {"good": GOOD})) == {"good": build(Published, GOOD)}


# --------------------------------------------------------------------------------------------------------- conformance


def test_each_suite_s_numbers_conform_and_would_pass_for_the_other_s():
    """The tolerances are derived of how far the two suites are apart."""
    rows = read_rows()
    assert rows["imagenet256"].expected["adm"]["fid"] == {"value": 3.94256, "tolerance": 0.005}
    assert rows["imagenet256"].expected["adm"]["is"]["tolerance"] == pytest.approx(0.215837)
    for row in rows.values():
        assert row.samples.startswith("admnet_guided") and row.reference.startswith("VIRTUAL_imagenet")
        assert all(address.endswith(f"/{name}") for name, address in row.addresses.items())
        assert {row.samples, row.reference} == set(row.addresses)
        for a in row.expected.values():
            for b in row.expected.values():
                assert a.keys() == {"fid", "sfid", "is", "precision", "recall"}
                assert all(verdict.passed for verdict in judge(a, b))


# The wrong ways of facts: one axis order of sFID, IS of a class-sorted file, recall of 5 neighbours, a distance too far
@pytest.mark.parametrize("score, value", [("sfid", 299.0), ("is", 62.07), ("recall", 0.66), ("fid", 3.948)])
def test_wrong_numbers_fail_and_only_they(score, value):
    expected = read_rows()["imagenet256"].expected["adm"]
    verdicts = judge(expected, {**expected, score: {"value": value}})
    assert [v.score for v in verdicts if not v.passed] == [score]
    (wrong,) = [v for v in verdicts if not v.passed]
    assert wrong.difference == pytest.approx(value - expected[score]["value"])


@pytest.mark.parametrize("entry", [{}, {"fid": {"value": math.nan}}])
def test_what_was_not_measured_has_not_passed(entry):
    (verdict,) = judge({"fid": {"value": 3.0, "tolerance": 0.005}}, entry)
    assert not verdict.passed
    assert "FAIL" in to_markdown(verdicts_table([verdict]))


def test_the_edge_of_the_tolerance_passes():
    expected = {"fid": {"value": 3.0, "tolerance": 0.5}}
    assert [judge(expected, {"fid": {"value": v}})[0].passed for v in (2.5, 3.5, 3.51, 2.49)] == [
        True,
        True,
        False,
        False,
    ]
