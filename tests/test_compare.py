"""evaluate.py compare: a difference of protocols marks the scores that it concerns and no others."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import pytest

from pointillist.configs.options import load
from pointillist.evaluation.commands import compare as command
from pointillist.evaluation.commands.compare import compare
from pointillist.evaluation.protocol import branches, concerns, differences, sentence
from pointillist.evaluation.results import Result, names

TOY = "toy_frechet/emoji/035f4694"
INCEPTION = {"name": "inception", "sha256": "6726825d" + "0" * 56, "verified": True, "resize": "tf1 bilinear"}
DINOV2 = {"name": "dinov2", "sha256": "1" * 64, "verified": True}
PUBLISHED = {
    "scores": {
        "fid": {"value": 3.9426, "width": 0.021, "how": "bootstrap"},
        "sfid": {"value": 6.1404},
        "is": {"value": 215.837, "width": 1.42, "how": "splits"},
        "precision": {"value": 0.8265},
        "recall": {"value": 0.5309},
        "fd_dinov2": {"value": 88.123},
    },
    "warnings": {},
    "note": "one line",
    "protocol": {
        "suite": "pointillist 1",
        "count": 50000,
        "label_policy": "balanced",
        "pixels": {"resize": "none", "size": 256, "quantize": "round"},
        "networks": {"inception": INCEPTION, "dinov2": DINOV2},
        "reference": {
            "sha256": "a" * 64,
            "moments_of": {"inception/pool": None, "inception/spatial": None, "dinov2/cls": None},
            "image_count": 10000,
            "pixels": {"resize": "none"},
        },
        "scores": {
            "fid": {},
            "sfid": {},
            "fd_dinov2": {},
            "inception_score": {"rule": "adm", "split_size": 5000},
            "precision_recall": {"k": 3, "precision": "fp32"},
        },
    },
    "samples": {"source": "x.npz", "sha256_of_pixels": "b" * 64, "seeds": [0], "run": None, "published": None},
    "environment": {"torch": "2.14.1", "device": "cpu", "tf32": False},
}
OFFLINE = {
    "scores": {
        TOY: {"value": 42.6795, "unit": "x1e-3 of reference variance", "heldout": 11.2345},
        "copy_rate": {"value": 0.005, "unit": "share of samples", "heldout": 0.04},
    },
    "warnings": {"few_samples": "20 samples are few"},
    "note": "not comparable with any paper",
    "protocol": {"suite": "pointillist-offline 1", "count": 1000, "label_policy": "not balanced"},
    "samples": {"source": "y.npz", "run": None},
}
ALL = {"FID", "sFID", "IS", "precision", "recall", "FD-DINOv2"}


def changed(whole: dict, dotted: str, value) -> dict:
    """A copy with another value under a dotted key; "..." removes the key."""
    whole = copy.deepcopy(whole)
    *path, last = dotted.split(".")
    inner = whole
    for step in path:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return whole


def result(whole: dict, name: str = "run") -> Result:
    return Result(None, name, whole)


def marked(table) -> dict[str, set[str]]:
    """Letter -> titles of the columns in which it stands."""
    found = {}
    for row in table.rows:
        for column, cell in zip(table.columns, row, strict=True):
            for letter in cell.marks:
                found.setdefault(letter, set()).add(column.title or column.key)
    return found


def write(path, whole: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole))
    return str(path)


def run(*targets, **options) -> None:
    command.main([str(t) for t in targets], load(command.Options, None, [f"{k}={v}" for k, v in options.items()]))


# --------------------------------------------------------------------------------------------------------- differences


def test_equal_cards_have_no_differences():
    card = PUBLISHED["protocol"]
    assert differences(card, copy.deepcopy(card)) == {}
    table = compare([result(PUBLISHED), result(copy.deepcopy(PUBLISHED))], strict=True)
    assert marked(table) == {} and table.lines() == []


def test_differences_are_dotted_and_say_what_is_absent():
    a = {"x": {"y": 1, "gone": 2}, "same": [1, 2], "empty": {}}
    b = {"x": {"y": 3, "new": None}, "same": [1, 2]}
    assert differences(a, b) == {"x.y": (1, 3), "x.gone": (2, "absent"), "x.new": ("absent", None)}


# key -> another value, and the columns that it concerns
CASES = [
    ("count", 10000, ALL),
    ("label_policy", "not balanced", ALL),
    ("pixels.quantize", "truncate", ALL),
    ("scores.precision_recall.precision", "adm_fp16", {"precision", "recall"}),
    ("scores.inception_score.rule", "torch_fidelity", {"IS"}),
    ("networks.inception.resize", "antialiased", ALL - {"FD-DINOv2"}),
    ("networks.dinov2.sha256", "2" * 64, {"FD-DINOv2"}),
    ("reference.sha256", "c" * 64, ALL - {"IS"}),
    ("reference.pixels.resize", "adm", ALL - {"IS"}),
    ("reference.image_count", 50000, {"precision", "recall"}),
    ("reference.moments_of.inception/pool", 5000, {"FID"}),
    ("reference.moments_of.inception/spatial", ..., {"sFID"}),
    ("something_new", 1, ALL),
]


@pytest.mark.parametrize("key, value, columns", CASES, ids=[case[0] for case in CASES])
def test_a_difference_marks_the_scores_that_it_concerns(key, value, columns):
    other = changed(PUBLISHED, f"protocol.{key}", value)
    table = compare([result(PUBLISHED, "A"), result(other, "B")])
    assert marked(table) == {"a": columns}
    assert not any(cell.marks for cell in table.rows[0]), "the standard itself is not marked"
    (line,) = table.lines()
    assert line.startswith(f"a: {key} ") and line.endswith("must not be compared")
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        compare([result(PUBLISHED), result(other)], strict=True)


def test_another_suite_marks_the_row_too():
    other = changed(PUBLISHED, "protocol.suite", "pointillist 2")
    assert marked(compare([result(PUBLISHED), result(other)])) == {"a": {"run"} | ALL}


OUTSIDE = ["environment.torch", "environment.tf32", "samples.sha256_of_pixels", "samples.source", "note"]


@pytest.mark.parametrize("key", OUTSIDE)
def test_what_is_not_protocol_marks_nothing(key):
    """The negative control: else every two runs would differ."""
    table = compare([result(PUBLISHED), result(changed(PUBLISHED, key, "another"))], strict=True)
    assert marked(table) == {}


def test_a_score_that_only_one_has_marks_nothing():
    """It brings its own network, options and moments into the card."""
    other = copy.deepcopy(PUBLISHED)
    del other["scores"]["fd_dinov2"], other["protocol"]["networks"]["dinov2"], other["protocol"]["scores"]["fd_dinov2"]
    del other["protocol"]["reference"]["moments_of"]["dinov2/cls"]
    for pair in ([PUBLISHED, other], [other, PUBLISHED]):
        assert marked(compare([result(whole) for whole in pair], strict=True)) == {}


def test_unverified_names_belong_to_their_file():
    assert concerns("networks.inception.sha256", "frechet(inception-1a2b3c4d)")
    assert not concerns("networks.dinov2.sha256", "frechet(inception-1a2b3c4d)")
    assert concerns("scores.precision_recall.k", "recall(inception-1a2b3c4d)")
    assert not concerns("scores.precision_recall.k", "class_divergence(inception-1a2b3c4d)")
    assert not concerns("reference.sha256", "class_divergence(inception-1a2b3c4d)")
    assert concerns("networks.dinov2.sha256", TOY), "of an unknown score nothing is known, so everything concerns it"


def test_rows_without_the_standard_s_score_are_held_against_each_other():
    first = changed(PUBLISHED, "scores.fd_dinov2", ...)
    second, third = PUBLISHED, changed(PUBLISHED, "protocol.networks.dinov2.sha256", "2" * 64)
    table = compare([result(first, "A"), result(second, "B"), result(third, "C")])
    assert marked(table) == {"a": {"FD-DINOv2"}} and "(against B)" in table.footnotes["a"]


def test_each_difference_has_its_letter_and_equal_ones_share_it():
    truncated = changed(PUBLISHED, "protocol.pixels.quantize", "truncate")
    few = changed(PUBLISHED, "protocol.count", 10)
    fewer = changed(truncated, "protocol.count", 5)
    table = compare([result(PUBLISHED), *map(result, (truncated, few, fewer))])
    assert [row[2].marks for row in table.rows] == [(), ("a",), ("b",), ("c", "a")]
    assert table.footnotes["b"].startswith("count 50000, here 10;")


def test_differences_of_one_network_are_one_sentence():
    found = {
        "networks.inception.sha256": ("a" * 64, "b" * 64),
        "networks.inception.resize": ("x", "y"),
        "count": (1, 2),
    }
    together, count = branches(found)
    assert (
        sentence(together) == "networks.inception.sha256 aaaaaaaa, here bbbbbbbb; networks.inception.resize x, here y"
    )
    assert sentence(count) == "count 1, here 2"


def test_what_another_reference_holds_is_not_told_too():
    other = changed(PUBLISHED, "protocol.reference.sha256", "c" * 64)
    other = changed(changed(other, "protocol.reference.image_count", 1), "protocol.reference.moments_of", {})
    table = compare([result(PUBLISHED), result(other)])
    assert marked(table) == {"a": ALL - {"IS"}}
    assert table.footnotes["a"].startswith("reference.sha256 aaaaaaaa, here cccccccc; FID")


def test_hashes_are_as_long_as_tells_them_apart():
    a, b = "1" * 64, "1" * 12 + "2" * 52
    assert sentence({"sha256": (a, b)}) == f"sha256 {a[:16]}, here {b[:16]}"
    assert sentence({"sha256": (a, None)}) == "sha256 11111111, here none"


# ------------------------------------------------------------------------------------------------------ offline scores


def test_offline_scores_never_share_a_column_with_published_ones():
    imposter = changed(OFFLINE, "scores.fid", {"value": 1.0})
    table = compare([result(PUBLISHED, "A"), result(imposter, "B")])
    heads = [column.title or column.key for column in table.columns]
    assert {"FID", "fid (offline)", TOY} <= set(heads)
    for column, *cells in zip(heads, *table.rows, strict=True):
        if column not in ("run", "N"):
            assert [cell.value is None for cell in cells].count(False) == 1, column
    assert marked(table) == {"a": {"run"}}
    assert table.footnotes["a"] == "suite pointillist 1, here pointillist-offline 1"


def test_offline_scores_bring_their_yardstick_and_their_note():
    table = compare([result(OFFLINE, "A"), result(changed(OFFLINE, f"scores.{TOY}.value", 40.0), "B")], strict=True)
    assert f"{TOY}: held-out images get 11.23, x1e-3 of reference variance" in table.notes
    assert table.notes.count("not comparable with any paper") == 1
    assert "A was scored with warnings: few_samples" in table.notes


# ------------------------------------------------------------------------------------------------------------ on paper


def test_cells_show_widths_and_seeds():
    seeds = {"value": 3.95, "min": 3.91, "std": 0.0312, "seeds": [3.91, 3.95, 3.99]}
    table = compare([result(PUBLISHED), result(changed(PUBLISHED, "scores.fid", seeds))])
    assert [row[2].text for row in table.rows] == ["3.943 ± 0.021", "3.950 (min 3.910, std 0.031, 3 seeds)"]


def test_the_command_prints_and_writes(tmp_path, capsys):
    a = write(tmp_path / "a" / "scores.json", PUBLISHED)
    write(tmp_path / "b" / "samples" / "scores.json", changed(PUBLISHED, "protocol.count", 100))
    run(a, tmp_path / "b", out=tmp_path / "table.csv")
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert len({len(line) for line in lines[:4]}) == 1, "the columns stand under each other"
    assert "3.943 ± 0.021 [a]" in lines[3] and "[a]" not in lines[2]
    assert "- a: count 50000, here 100; FID, sFID, IS, precision, recall, FD-DINOv2 must not be compared" in lines
    text = (tmp_path / "table.csv").read_bytes().decode()
    assert text.count("\r\n") == text.count("\n") == 3
    first, second = csv.DictReader(text.splitlines())
    assert float(first["fid"]) == 3.9426 and float(first["fid width"]) == 0.021 and first["footnotes"] == ""
    assert second["footnotes"].startswith("fid, sfid, is, precision, recall, fd_dinov2: count 50000, here 100")


def test_to_names_the_standard(tmp_path, capsys):
    a = write(tmp_path / "a.json", PUBLISHED)
    b = write(tmp_path / "b.json", changed(PUBLISHED, "protocol.count", 100))
    run(a, b, to=b)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| b ") and lines[3].startswith("| a ")
    assert "- a: count 100, here 50000; " in "\n".join(lines)
    run(a, to=b)  # one target is enough
    assert capsys.readouterr().out.splitlines() == lines


def test_names_are_short_and_tell_runs_apart():
    def short(*paths):
        return names([Path(path) for path in paths])

    assert short("runs/a/par/samples/scores.json", "runs/a/token/samples/scores.json") == ["par", "token"]
    assert short("a/scores.json", "a/scores-raw.json") == ["a", "scores-raw"]
    assert short("a/scores.json", "b/x/scores.json") == ["a", "b/x"]
    assert short("a/scores.json", "a/b/scores.json") == ["a", "b"]
    assert short("a/b/scores.json", "a/b/scores.json") == ["a/b", "a/b"]
    assert short("scores.json", "b/scores.json") == ["scores", "b"]


# ------------------------------------------------------------------------------------------------------------- refused


def test_strict_writes_nothing(tmp_path):
    a, b = write(tmp_path / "a.json", PUBLISHED), write(tmp_path / "b.json", changed(PUBLISHED, "protocol.count", 100))
    with pytest.raises(ValueError, match="not comparable: count 50000, here 100; FID"):
        run(a, b, strict="true", out=tmp_path / "table.md")
    assert not (tmp_path / "table.md").exists()
    run(a, a.replace("a.json", "./a.json"), b, to=a, out=tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text().count("\n|") == 3, "a file given twice is one row"


BROKEN = {
    "no JSON": ("{", "cannot be read"),
    "a list": ("[]", "not an object"),
    "empty": ("", "cannot be read"),
    "no protocol": (json.dumps({"scores": {"fid": {"value": 1}}}), "has no protocol"),
    "no samples": (json.dumps({"scores": {"fid": {"value": 1}}, "protocol": {"suite": "x"}}), "has no samples"),
    "no scores": (json.dumps({"scores": {}, "protocol": {"suite": "x"}, "samples": {}}), "holds no score"),
    "no suite": (json.dumps({"scores": {"fid": {"value": 1}}, "protocol": {}, "samples": {}}), "holds no suite"),
    "no number": (json.dumps(changed(PUBLISHED, "scores.fid", {"value": "3"})), "score fid has no number"),
    "no entry": (json.dumps(changed(PUBLISHED, "scores.fid", 3.0)), "score fid has no number"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_damaged_files_are_one_line(tmp_path, kind):
    content, message = BROKEN[kind]
    (tmp_path / "bad.json").write_text(content)
    good = write(tmp_path / "good.json", PUBLISHED)
    with pytest.raises(ValueError, match=message) as caught:
        run(good, tmp_path / "bad.json")
    assert "bad.json" in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_compared_is_said_in_one_line(tmp_path):
    a, b = write(tmp_path / "a/scores.json", PUBLISHED), write(tmp_path / "b/scores-1.json", PUBLISHED)
    write(tmp_path / "b/scores-2.json", PUBLISHED)
    (tmp_path / "empty").mkdir()
    cases = [
        ((), {}, "two different score files, got none"),
        ((a,), {}, "two different score files"),
        ((a, a), {}, "two different score files"),
        ((a, tmp_path / "nothing"), {}, "there is no"),
        ((a, tmp_path / "empty"), {}, "holds no scores"),
        ((a, tmp_path / "b"), {}, "holds 2 score files"),
        ((a, b), {"out": "table.pdf"}, "must end in .md, .csv, .tex"),
        ((a, b), {"too": "x"}, "too"),
    ]
    for targets, options, message in cases:
        with pytest.raises((ValueError, OSError), match=message) as caught:
            run(*targets, **options)
        assert "\n" not in str(caught.value)
