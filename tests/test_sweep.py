"""Sweeps: which points a command asks for, what is skipped and refused when it is repeated, the rows that come out."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pointillist.configs.options import load, option, to_dict
from pointillist.sweeps import sweep as sweeping
from pointillist.sweeps.grid import expand, folder_name, pieces
from pointillist.sweeps.results import read_results, row_of, to_csv, to_markdown
from tests.points import SCORE, codes_of, sample_json, write_point, write_scores


@dataclass
class Options:
    """Those of sample.py that a sweep reads, and some to sweep."""

    out: str = option("")
    num_images: int = option(20)
    seed: int = option(0)
    classes: str = option("balanced")
    sampler: Any = option("ancestral", part="sampling")
    guidance: str = option("1")
    guidance_interval: list[float] = option([0, 1])
    unit: dict[str, Any] = option({})
    model: dict[str, Any] = option({})
    precision: str = option("fp32")
    score: bool = option(True)
    cache: str = option("")
    network_steps: int = option(400)


def names(*words: str) -> list[str]:
    return [point.name for point in expand(Options, list(words), {"classes", "out"}).points]


# ----------------------------------------------------------------------------------------------------------------- grid


def test_commas_outside_brackets_part_values():
    assert pieces("[0,1],[0.1,0.8]") == ["[0,1]", "[0.1,0.8]"]
    assert pieces("{a:1,b:2}") == ["{a:1,b:2}"] and pieces("1..4:linear, 2") == ["1..4:linear", "2"]
    assert names("guidance_interval=[0,1]") == [], "one value is no sweep"
    points = expand(Options, ["guidance_interval=[0,1],[0.1,0.8]"], set()).points
    values = [load(Options, None, point.words).guidance_interval for point in points]
    assert values == [[0, 1], [0.1, 0.8]]


def test_every_combination_is_a_point_in_the_order_of_the_words():
    grid = expand(Options, ["sampler=ancestral,masked", "guidance=1.5,2", "seed=3"], set())
    assert grid.axes == ("sampler", "guidance")
    assert [p.name for p in grid.points] == [
        "ancestral-guidance1.5", "ancestral-guidance2", "masked-guidance1.5", "masked-guidance2"
    ]  # fmt: skip
    options = load(Options, None, grid.points[3].words)
    assert (options.sampler.name, options.guidance, options.seed) == ("masked", "2", 3)


def test_names_and_paths_keep_their_commas():
    assert names("classes=Flags,0", "guidance=1,2") == ["guidance1", "guidance2"]
    assert names("out=a,b", "classes=0,1") == []
    assert len(expand(Options, ["classes=0,1"], set()).points) == 2, "the control: a key that is not kept whole"


def test_a_nested_option_goes_to_the_samplers_that_have_it():
    found = names("sampler=ancestral,masked", "sampler.passes=4,8", "guidance=1,2")
    assert found == [
        "ancestral-guidance1", "ancestral-guidance2", "masked-passes4-guidance1", "masked-passes4-guidance2",
        "masked-passes8-guidance1", "masked-passes8-guidance2",
    ]  # fmt: skip
    fixed = expand(Options, ["sampler=ancestral,masked", "sampler.passes=4"], set()).points
    assert [any("passes" in word for word in p.words) for p in fixed] == [False, True]


def test_an_inner_option_goes_to_the_parts_of_a_part_that_have_it():
    """Which of a sampler's options exist depends on its own part: sampler.drafter.coupling is a Jacobi drafter's."""
    words = ["sampler=ancestral,speculative", "sampler.drafter.coupling=redraw,gumbel", "sampler.window=4"]
    expected = ["ancestral", "speculative-couplingredraw", "speculative-couplinggumbel"]
    assert names(*words) == names(*reversed(words)) == expected
    options = [load(Options, None, point.words).sampler for point in expand(Options, words, set()).points]
    assert [(o.drafter.coupling, o.window) for o in options[1:]] == [("redraw", 4), ("gumbel", 4)]


def test_equal_points_are_made_once():
    assert names("guidance=1,1.0,2") == ["guidance1", "guidance2"]
    assert names("sampler=ancestral,masked,ancestral") == ["ancestral", "masked"]
    assert names("guidance=1,2", "guidance=3") == [], "the later word holds"


@pytest.mark.parametrize(
    "words, message",
    [
        (["sampler=ancestral,masked", "sampler.pases=4,8"], "pases"),
        (["sampler.passes=4,8"], "passes"),
        (["guidence=1,2"], "Did you mean: 'guidance'"),
        (["sampler=ancestral,maskd"], "choose one of .*masked"),
        (["sampler=masked,ancestral", "sampler.passes=4,few"], "sampler.passes"),
        (["guidance=1,,2"], "empty value"),
        (["guidance=1,"], "empty value"),
        (["guidance=1,2", "seed"], "expected key=value"),
    ],
)
def test_what_no_point_can_have_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        expand(Options, words, set())


def test_folder_names_differ_where_values_do():
    axes = ("sampler", "sampler.passes", "unit.passes", "guidance")
    assert folder_name({"guidance": "2", "sampler": "masked", "sampler.passes": "4"}, axes) == (
        "masked-sampler.passes4-guidance2"
    ), "the sampler first; whole keys where their ends are the same"
    odd = [folder_name({"guidance": value}, axes) for value in ("1..4:cosine", "1..4/cosine", "1" * 200, "1" * 201)]
    assert len(set(odd)) == 4 and all("/" not in name and ":" not in name and len(name) < 120 for name in odd)


# --------------------------------------------------------------------------------------------------------------- sweeps


class Recorder:
    """prepare and draw of a made-up generator: guidance decides the codes, so that samplers agree."""

    def __init__(self, run: Path, stop_after: int = 99):
        self.run, self.rehearsed, self.drawn, self.stop_after = run, [], [], stop_after

    def prepare(self, options: Options) -> SimpleNamespace:
        if options.guidance == "bad":
            raise ValueError("guidance must be a number")
        request = {k: v for k, v in to_dict(options).items() if k not in ("out", "score", "cache", "network_steps")}
        return SimpleNamespace(options=options, request=request, config={}, folder=self.run / "step_1")

    def rehearse(self, job: SimpleNamespace) -> None:
        self.rehearsed.append(job.options.guidance)
        if job.options.guidance == "4":
            raise ValueError("the draft's unit decodes other groups")

    def draw(self, job: SimpleNamespace, out: Path) -> dict:
        if (out / "sample.json").is_file():
            return {}
        if len(self.drawn) == self.stop_after:
            raise KeyboardInterrupt
        self.drawn.append(out.name)
        sample = sample_json(to_dict(job.options))
        write_point(out, sample, codes_of(int(job.options.guidance) + job.options.seed))
        return sample


@pytest.fixture
def scored(monkeypatch) -> list[str]:
    """Scoring replaced by a constant; the points scored so far."""
    done: list[str] = []

    def write(folder: Path) -> None:
        done.append(folder.name)
        write_scores(folder, 50.0)

    monkeypatch.setattr(sweeping, "open_scorer", lambda *_: write)
    return done


WORDS = ["sampler=masked,ancestral", "guidance=1,2"]


def sweep(recorder: Recorder, *words: str) -> list[dict[str, str]]:
    """The rows of sweep.csv."""
    grid = expand(Options, [*WORDS, *words], {"out"})
    points = [(point.name, load(Options, None, point.words)) for point in grid.points]
    sweeping.sweep(grid.axes, points, recorder.prepare, recorder.rehearse, recorder.draw)
    with open(recorder.run / "sweep" / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_leaves_a_row_a_point_a_table_and_a_page(tmp_path, scored, capsys):
    recorder = Recorder(tmp_path)
    rows = sweep(recorder)
    assert recorder.drawn == [
        "ancestral-guidance1", "ancestral-guidance2", "masked-guidance1", "masked-guidance2"
    ], "ancestral first: the others are compared with it at once"  # fmt: skip
    assert [r["point"] for r in rows] == ["masked-guidance1", "masked-guidance2", *recorder.drawn[:2]]
    assert rows[0]["sampler"] == "masked" and rows[0]["guidance"] == "1" and rows[0][SCORE] == "50.0"
    assert all(float(r["nfe_per_image"]) == 16 and r["identical_to_ancestral"] == "20" for r in rows)
    markdown = (tmp_path / "sweep" / "sweep.md").read_text()
    assert markdown.strip() in capsys.readouterr().out and "| masked | 1 | exact | 16 |" in markdown
    assert "<svg" in (tmp_path / "sweep" / "report.html").read_text()


def test_a_stopped_sweep_continues_where_it_was(tmp_path, scored):
    whole = sweep(Recorder(tmp_path / "whole"))
    stopped = Recorder(tmp_path / "stopped", stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(stopped)
    text = (tmp_path / "stopped" / "sweep" / "sweep.csv").read_text()
    assert len(text.splitlines()) == 3, "a row appears as soon as its point is done"
    (tmp_path / "stopped" / "sweep" / "sweep.csv").write_text(text[:-25])  # the last line is torn
    rest = Recorder(tmp_path / "stopped")
    assert sweep(rest) == whole
    assert rest.drawn == ["masked-guidance1", "masked-guidance2"]
    again = Recorder(tmp_path / "stopped")
    assert sweep(again) == whole and again.drawn == [] and len(scored) == 8, "nothing is made or scored twice"
    assert rest.rehearsed == ["1", "2"] and again.rehearsed == [], "finished points are not rehearsed"


def test_a_point_that_was_sampled_but_not_scored_is_only_scored(tmp_path, scored):
    without = sweep(Recorder(tmp_path), "score=false")
    assert SCORE not in without[0] and scored == []
    recorder = Recorder(tmp_path)
    assert [row[SCORE] for row in sweep(recorder)] == ["50.0"] * 4 and recorder.drawn == []


def test_a_larger_grid_keeps_what_is_there_and_a_smaller_one_forgets_nothing(tmp_path, scored):
    sweep(Recorder(tmp_path))
    larger = Recorder(tmp_path)
    rows = sweep(larger, "guidance=1,2,3")
    assert larger.drawn == ["ancestral-guidance3", "masked-guidance3"] and len(rows) == 6
    assert len(sweep(Recorder(tmp_path))) == 6


@pytest.mark.parametrize(
    "word, message",
    [
        ("num_images=30", "num_images was 20, is 30"),
        ("seed=1", "seed was 0, is 1"),
        ("seed=1,2", "swept was guidance sampler, is guidance sampler seed"),
        ("network_steps=20", "network_steps was 400, is 20"),
        ("sampler.passes=4", "holds other samples: sampler was"),
    ],
)
def test_another_request_in_the_same_folder_is_refused(word, message, tmp_path, scored):
    recorder = Recorder(tmp_path)
    sweep(recorder)
    write_request(tmp_path, recorder)
    with pytest.raises(ValueError, match=message):
        sweep(Recorder(tmp_path), word)
    sweep(Recorder(tmp_path))  # the control: the same request is not


def write_request(run: Path, recorder: Recorder) -> None:
    """The request.json of each point, which SampleFiles writes."""
    for point in expand(Options, WORDS, set()).points:
        job = recorder.prepare(load(Options, None, point.words))
        sweeping.write_json(run / "sweep" / "points" / point.name / "request.json", job.request)


def test_all_points_are_checked_before_the_first_is_drawn(tmp_path, scored):
    recorder = Recorder(tmp_path)
    with pytest.raises(ValueError, match="must be a number"):
        sweep(recorder, "guidance=1,2,bad")
    with pytest.raises(ValueError, match="other groups"):
        sweep(recorder, "guidance=1,2,4")
    assert recorder.drawn == [] and not (tmp_path / "sweep").exists()


def test_data_that_cannot_be_scored_here_are_said_in_a_line(tmp_path, monkeypatch, capsys):
    def gone(*_: Any) -> None:
        raise FileNotFoundError("no images\nat /data")

    monkeypatch.setattr(sweeping, "open_scorer", gone)
    rows = sweep(Recorder(tmp_path))
    assert len(rows) == 4 and SCORE not in rows[0]
    assert "not scored: no images at /data\n" in capsys.readouterr().out
    assert "not scored: no images at /data" in (tmp_path / "sweep" / "report.html").read_text()


# ----------------------------------------------------------------------------------------------------------------- rows


def test_images_are_counted_as_ancestrals_only_where_all_codes_are_equal(tmp_path):
    codes = codes_of(0)
    changed = codes.copy()
    changed[3, 5] += 1
    changed[7] += 1
    folders = [
        write_point(tmp_path / "plain", sample_json({}), codes),
        write_point(tmp_path / "other", sample_json({"sampler": {"name": "jacobi", "window": 8}}), changed),
        write_point(tmp_path / "alone", sample_json({"guidance": "2", "sampler": {"name": "jacobi"}}), codes),
    ]
    plain, other, alone = read_results(folders, ("sampler", "sampler.window", "guidance"))
    assert other.values == {"sampler": "jacobi", "sampler.window": "8", "guidance": "1"}
    assert row_of(other)["identical_to_ancestral"] == 18 and not other.same[3] and not other.same[7]
    assert row_of(plain)["identical_to_ancestral"] == 20
    assert row_of(alone)["identical_to_ancestral"] is None, "no ancestral point has guidance 2"


def test_values_with_commas_and_bars_stay_in_their_cells(tmp_path):
    folder = write_point(tmp_path / "a", sample_json({"guidance": "a|b,c"}), codes_of(0), score=1.0)
    results = read_results([folder], ("guidance",))
    (row,) = csv.DictReader(to_csv(results, ("guidance",)).splitlines())
    assert row["guidance"] == "a|b,c" and float(row["acceptance"]) == 0.75 and float(row[SCORE]) == 1.0
    lines = to_markdown(results, ("guidance",), [])
    assert "a\\|b,c" in lines[2] and len({line.replace("\\|", "").count("|") for line in lines[:3]}) == 1
    assert "FID" not in "".join(lines)
