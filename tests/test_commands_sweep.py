"""sample.py with several values of an option: a sweep's points, its scores, and how it continues."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pointillist.configs.options import ROOT
from tests.commands import begun, fails, sampled, stopped, succeeds

SWEEP = ["sampler=jacobi,ancestral", "sampler.window=3", "guidance=1,2", "num_images=60", "batch_size=4"]
SWEEP += ["precision=fp64", "network_steps=20"]


def sweep_rows(out: Path) -> list[dict[str, str]]:
    """Rows of sweep.csv without the clock's readings."""
    with open(out / "sweep.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds_per_image"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def swept(generator) -> Path:
    """A sweep that was not disturbed; its feature network is in evaluation/ beside the run."""
    text = succeeds("sample.py", generator, *SWEEP)
    assert "| jacobi | 1 | exact |" in text and "4 points in" in text
    return generator / "sweep"


def test_a_sweep_samples_scores_and_compares(swept, generator, tmp_path):
    rows = sweep_rows(swept)
    assert [row["point"] for row in rows] == [f"{s}-guidance{g}" for s in ("jacobi", "ancestral") for g in (1, 2)]
    score = next(key for key in rows[0] if key.startswith("toy_frechet/emoji/"))
    for row in rows:
        assert row["num_images"] == "60" and row["law"] == "exact" and float(row[score]) > 0
        assert row["identical_to_ancestral"] == "60", "jacobi makes the very images of ancestral"
        assert (float(row["nfe_per_image"]) == 16) == (row["sampler"] == "ancestral")
    assert rows[0][score] != rows[1][score] and rows[0][score] == rows[2][score]
    assert sorted(p.name for p in (swept / "points" / "jacobi-guidance2").iterdir()) == [
        "codes.npz", "grid.png", "images.npz", "request.json", "sample.json", "scores.json"
    ]  # fmt: skip
    page = (swept / "report.html").read_text()
    assert page.count("<img") == 4 * 12 and "all 60 equal" in page and score in page
    words = ["num_images=60", "guidance=2", "precision=fp64", "sampler=jacobi", "sampler.window=3"]
    alone = sampled(generator, tmp_path / "alone", *words)
    with np.load(tmp_path / "alone" / "codes.npz") as a, np.load(swept / "points/jacobi-guidance2/codes.npz") as b:
        assert np.array_equal(a["codes"], b["codes"]), "a point is what the single command makes"
    point = json.loads((swept / "points/jacobi-guidance2/sample.json").read_text())
    assert alone["trace"]["nfe"] == point["trace"]["nfe"]


def test_exact_samplers_are_surprised_as_the_law_says(swept):
    """benchmarks/surprise.py: 0 in the mean; and the same number for the same images."""
    points = [swept / "points" / f"{sampler}-guidance2" for sampler in ("ancestral", "jacobi")]
    rows = [line.split("|") for line in succeeds("benchmarks/surprise.py", *points).splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["ancestral", "jacobi"] and rows[0][5:7] == rows[1][5:7]
    assert abs(float(rows[0][5])) < 5 * float(rows[0][6]) and float(rows[0][6]) > 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_stopped_sweep_continues_to_the_same_rows(how, swept, generator, tmp_path):
    out = tmp_path / "sweep"
    second = out / "points" / "ancestral-guidance2"
    code, said = stopped(how, lambda: begun(second), "sample.py", generator, *SWEEP, f"out={out}")
    assert code == (-how if how == signal.SIGKILL else 130), said[-500:]
    assert "the same command continues" in said or how == signal.SIGKILL
    before = sweep_rows(out)
    assert [row["point"] for row in before] == ["ancestral-guidance1"], "it was to be stopped in the second point"
    (out / "sweep.csv").write_text((out / "sweep.csv").read_text()[:-20])
    again = succeeds("sample.py", generator, *SWEEP, f"out={out}")
    assert "point 1 of 4" not in again and "point 2 of 4" in again, "the first point is not made again"
    assert sweep_rows(out) == sweep_rows(swept)
    assert not [p for p in out.rglob("*") if p.suffix == ".tmp" or p.name == "parts"]


def test_a_sweep_that_cannot_be_made_whole_is_not_begun(swept, generator, tmp_path):
    out = f"out={tmp_path / 's'}"
    fails("sampler=masked does not fit", "sample.py", generator, "sampler=ancestral,masked", out)
    fails("top_p must lie in (0, 1]", "sample.py", generator, "top_p=0.9,0", out)
    fails("Did you mean: 'guidance'?", "sample.py", generator, "guidence=1,2", out)
    fails("sampler.windw", "sample.py", generator, "sampler=ancestral,jacobi", "sampler.windw=3,4", out)
    fails("num_images", "sample.py", generator, "num_images=3,4", out)
    assert not (tmp_path / "s").exists()
    fails("holds other samples: num_images was 60, is 61", "sample.py", generator, *SWEEP, "num_images=61")
    fails("holds other samples: seed was 0, is 1", "sample.py", generator, *SWEEP, "seed=1")
    fails("holds other samples: swept was", "sample.py", generator, *SWEEP, "temperature=0.9,1")


def test_points_that_share_models_load_them_once(generator, tmp_path):
    count = (
        "import runpy, sys\nfrom pointillist.training import load\nloaded, whole = [], load.load_generator\n"
        "load.load_generator = lambda *a, **k: loaded.append(a) or whole(*a, **k)\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\nprint('loaded', len(loaded))"
    )
    words = [str(generator), "sampler=ancestral,jacobi", "guidance=1,2", "num_images=2", "score=false"]
    line = [sys.executable, "-c", count, str(ROOT / "sample.py"), *words, f"out={tmp_path / 's'}"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "loaded 1", done.stderr[-500:]
    assert len(sweep_rows(tmp_path / "s")) == 4 and "not scored: score=false" in done.stdout
