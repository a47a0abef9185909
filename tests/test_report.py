"""The report of a sweep: charts that put marks where the numbers say, a page that needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pointillist.sweeps import report, strips
from pointillist.sweeps.charts import Mark, bars, heat, scatter, shade, ticks
from pointillist.sweeps.maps import middle, on_grids, rejected, spent
from pointillist.sweeps.report import page
from pointillist.sweeps.results import Result, read_results
from pointillist.sweeps.strips import first_images, spread_out
from tests.points import SCORE, codes_of, sample_json, write_point

AXES = ("sampler", "sampler.window", "guidance")


# --------------------------------------------------------------------------------------------------------------- charts


def read_axis(svg: ElementTree.Element, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and places of the tick labels of an axis, "x" or "y"."""
    found = [t for t in svg.iter("text") if t.get("class") == f"tick {axis}"]
    return np.array([float(t.text) for t in found]), np.array([float(t.get(axis)) for t in found])


def places(svg: ElementTree.Element) -> np.ndarray:
    """[marks, 2]"""
    found = [g.get("transform") for g in svg.iter("g") if g.get("class") == "mark"]
    return np.array([[float(v) for v in re.findall(r"[-\d.]+", t)] for t in found])


@pytest.mark.parametrize("scale", [1, 1e-3, 1e5])
def test_marks_stand_where_the_axes_say(scale):
    data = np.array([[64, 30.0], [22.5, 41.25], [8, 97.0], [64, 12.0]]) * scale
    svg = ElementTree.fromstring(scatter([Mark(x, y, "a", 0) for x, y in data], "NFE", "score", (11 * scale, "real")))
    across, at_x = read_axis(svg, "x")
    up, at_y = read_axis(svg, "y")
    assert across[0] == 0 and across[-1] >= data[:, 0].max() and up[0] <= 11 * scale and up[-1] >= data[:, 1].max()
    read_x = np.interp(places(svg)[:, 0], at_x, across)
    read_y = np.interp(-places(svg)[:, 1], -(at_y - 4), up)  # a label's baseline is 4 below its line
    assert np.allclose(read_x, data[:, 0], rtol=1e-3) and np.allclose(read_y, data[:, 1], rtol=1e-3)
    assert not np.allclose(read_y, data[::-1, 1], rtol=1e-2), "the control: other data"
    level = next(line for line in svg.iter("line") if line.get("class") == "level")
    assert np.interp(-float(level.get("y1")), -(at_y - 4), up) == pytest.approx(11 * scale, rel=1e-3)


def test_series_differ_in_colour_and_shape_and_hollow_is_told():
    marks = [Mark(i, i, f"m{i}", i, hollow=i == 1) for i in range(3)]
    drawn = [path.attrib for path in ElementTree.fromstring(scatter(marks, "x", "y")).iter("path")]
    assert len({p["d"] for p in drawn}) == len({p["class"] for p in drawn}) == 3
    assert [p["class"].split()[0] for p in drawn] == ["full", "hollow", "full"]


def label_boxes(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    found = [t for t in svg.iter("text") if t.get("class") == "label"]
    corners = [(float(t.get("x")), float(t.get("y")), len(t.text)) for t in found]
    return [(x, y - 9, x + 6 * n, y) for x, y, n in corners]


def test_labels_do_not_cover_each_other_or_marks():
    data = np.random.default_rng(0).uniform(0, 10, (30, 2))
    svg = ElementTree.fromstring(scatter([Mark(x, y, "1.5, 0.9", 0) for x, y in data], "x", "y"))
    boxes, marks = label_boxes(svg), [(x - 5, y - 5, x + 5, y + 5) for x, y in places(svg)]
    assert len(boxes) >= 15, "most have room"
    for i, box in enumerate(boxes):
        assert not any(overlap(box, other) for other in [*boxes[:i], *marks])
    crowd = ElementTree.fromstring(scatter([Mark(5, 5, "a long label", 0)] * 30, "x", "y"))
    assert len(label_boxes(crowd)) < 30 and len(list(crowd.iter("title"))) == 30, "no room: the tooltip has it"


def overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("low, high", [(0, 64), (0.31, 0.32), (-3, 7), (5, 5), (0, 0), (1e-9, 3e-9), (99990, 100010)])
def test_ticks_are_few_round_and_enclose(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 13 and found[0] <= low + 1e-12 and found[-1] >= high - 1e-12
    steps = np.diff(found)
    assert np.allclose(steps, steps[0]) and steps[0] > 0
    digit = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert min(abs(digit - round_) for round_ in (1, 2, 5)) < 1e-6


def test_bars_are_as_high_as_the_shares():
    svg = ElementTree.fromstring(bars({1: 60, 2: 30, 4: 10}, "kept"))
    heights = [float(r.get("height")) for r in svg.iter("rect")]
    assert np.allclose(np.array(heights) / heights[0], [1, 1 / 2, 0, 1 / 6], atol=1e-3)
    beside = ElementTree.fromstring(bars({1: 60, 2: 30, 4: 10}, "kept", last=6, most=0.9))
    assert len(list(beside.iter("rect"))) == 6 and float(next(beside.iter("rect")).get("height")) < heights[0]
    zero = ElementTree.fromstring(bars({0: 1, 1: 1}, "kept"))
    assert len(list(zero.iter("rect"))) == 2, "a pass that kept nothing has a bar"


def test_maps_have_a_cell_a_slot_in_raster_order():
    grid = [[0.1, 0.2, None], [0.3, 0.4, 0.5]]
    svg = ElementTree.fromstring(heat([grid], (0.1, 0.4), "map", "{:.1f}".format))
    cells = [r for r in svg.iter("rect") if r.get("class") == "cell"]
    titles = [r.find("title").text for r in svg.iter("rect") if r.find("title") is not None]
    assert titles == ["row 0, column 0: 0.1", "row 0, column 1: 0.2", "row 0, column 2: never tested",
                      "row 1, column 0: 0.3", "row 1, column 1: 0.4", "row 1, column 2: 0.5"]  # fmt: skip
    opacity = [float(r.get("fill-opacity")) for r in cells]
    assert opacity[0] < opacity[1] < opacity[2] < opacity[3] == opacity[4] == 1
    x, y = ([float(r.get(axis)) for r in cells] for axis in "xy")
    assert x[1] > x[0] and y[2] > y[0] and x[2] == x[0]
    assert shade(0, (0, 0)) < shade(1, (0, 0)) == 1, "a map without differences"


def test_slots_become_the_grids_of_the_codes():
    assert on_grids([*range(6)], [[2, 3]]) == [[[0, 1, 2], [3, 4, 5]]]
    assert on_grids([*range(5)], [[1, 1], [2, 2]]) == [[[0]], [[1, 2], [3, 4]]], "a pyramid"
    assert on_grids([*range(4)], [[4]]) == [[[0, 1, 2, 3]]], "a sequence"
    assert on_grids([*range(5)], [[2, 2]]) == [[[0, 1, 2], [3, 4]]], "more slots than codes"
    assert middle([0.0] + [1.0] * 50 + [9.0]) == (1.0, 1.0) and middle([1.0, 2.0]) == (1.0, 2.0)


# ----------------------------------------------------------------------------------------------------------------- page


class Page(HTMLParser):
    """Tags, attributes and text; an unclosed or crossed tag is an error."""

    VOID = ("meta", "link", "img", "br", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict]:
        return [a for t, a in self.tags if t == tag and kind in [*(a.get("class") or "").split(), ""]]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


HOSTILE = "<script>alert(1)</script>\"&'"


def results(folder: Path, score: float | None = 40.0) -> list[Result]:
    """Ancestral, an exact sampler with two images that differ, a relaxed one; one of the classes has a hostile name."""
    codes, changed = codes_of(0), codes_of(0)
    changed[[0, 5]] += 1
    named = {"classes": [HOSTILE, "Faces"]}
    jacobi = {"sampler": {"name": "jacobi", "window": 8}}
    lantern = {"sampler": {"name": "lantern"}}
    plain = sample_json({}, committed={"1": 40}, by_slot={}, accepted=None, variation_per_image=None, **named)
    folders = [
        write_point(folder / "plain", plain, codes, score),
        write_point(folder / "jacobi", sample_json(jacobi, variation_per_image=0.0, **named), changed, score),
        write_point(
            folder / "lantern", sample_json(lantern, "relaxed", nfe_per_image=5.0, **named), codes_of(1), score
        ),
    ]
    return read_results(folders, AXES)


def test_the_page_needs_nothing_but_itself(tmp_path):
    found = Page(page(results(tmp_path), AXES, ["a note"]))
    assert found.all("script") == []
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), f"{tag} {name}={attributes[name]}"
        assert not any(name.startswith("on") for name in attributes), f"{tag} {attributes}"
    style = page([], AXES, [])
    assert "http" not in style and "@import" not in style and "url(" not in style
    assert len(found.all("img")) == 3 * 12 and all(a["alt"] for a in found.all("img"))


def test_text_is_escaped(tmp_path, monkeypatch):
    text = page(results(tmp_path), AXES, [f"note {HOSTILE}"])
    found = Page(text)
    assert "<script" not in text and found.all("script") == []
    assert f"note {HOSTILE}" in found.words and "Sweep of runs/<toy>" in found.words
    assert any(HOSTILE in (a.get("title") or "") for a in found.all("img"))
    for module in (report, strips):
        with monkeypatch.context() as context:
            context.setattr(module, "escape", str)
            assert "<script" in page(results(tmp_path), AXES, [HOSTILE]), "the control"


def test_images_that_differ_from_ancestral_are_marked_and_counted(tmp_path):
    found = Page(page(results(tmp_path), AXES, []))
    alts = [a["alt"] for a in found.all("img")]
    assert [i for i, alt in enumerate(alts[12:24]) if "differs" in alt] == [0, 5]
    assert not any("differs" in alt for alt in alts[:12]) and all("differs" in alt for alt in alts[24:])
    assert len(found.all("td", "differs")) == 2 + 12
    assert "2 of 20 differ" in found.words and "20 of 20 differ" in found.words and "all 20 equal" not in found.words


def test_sections_appear_where_there_is_something_to_show(tmp_path):
    words = Page(page(results(tmp_path), AXES, [], waiting=2)).words
    for title in ("Numbers", "Quality against cost", "What relaxed rules spend", "Groups kept a pass", "The same seeds",
                  "Where drafts are rejected", "Total variation an image spent"):  # fmt: skip
        assert title in words, title
    assert "3 points over sampler, sampler.window, guidance; 2 still to come" in words and "relaxed" in words
    exact = Page(page(results(tmp_path)[:1], AXES, [])).words
    for title in ("What relaxed rules spend", "Groups kept a pass", "Where drafts are rejected"):
        assert title not in exact, title


def test_points_without_scores_or_points_at_all_still_make_a_page(tmp_path):
    found = Page(page(results(tmp_path, score=None), AXES, ["not scored: score=false"]))
    assert "These points have no score" in found.words and "not scored: score=false" in found.words
    assert SCORE not in found.words and len(found.all("img")) == 36
    assert "0 points over sampler" in Page(page([], ("sampler",), [], waiting=4)).words
    scored, unscored = results(tmp_path / "a"), results(tmp_path / "b", score=None)
    assert SCORE in Page(page([*scored, *unscored], AXES, [])).words


def test_continuous_pyramid_and_odd_codes_make_a_page(tmp_path):
    sample = sample_json({"sampler": {"name": "jacobi"}})
    sample["spec"] = {"grids": [[1, 1], [3, 3]], "vocab": [], "channels": 4}  # 10 codes, 16 slots
    assert (
        "4 real numbers" in Page(page(read_results([write_point(tmp_path, sample, codes_of(0))], AXES), AXES, [])).words
    )


def test_maps_are_of_what_was_tested(tmp_path):
    result = results(tmp_path)[2]
    assert rejected(result) == [0.25] * 15 + [None]
    assert spent(result) == [0.5 / 20] * 15 + [None]


def test_a_strip_shows_every_class_first(tmp_path):
    assert spread_out([0, 0, 0, 1, 2]) == [0, 1, 2, 3, 4]
    assert spread_out([0] * 50 + [1]) == [*range(11), 50]
    folder = write_point(tmp_path, sample_json({}), codes_of(0, images=100))
    images, labels = first_images(folder)
    assert len(images) == len(labels) == 64, "only the first are read"
