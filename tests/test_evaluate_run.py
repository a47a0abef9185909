"""evaluate.py RUN: images straight from a generator score like those that sample.py writes, seed by seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.commands import GENERATOR, TOKENIZER, fails, succeeds

REQUEST = ["num_images=10", "guidance=2", "sampler=jacobi", "classes=balanced", "batch_size=4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a tokenizer and a generator, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    succeeds("train.py", *TOKENIZER, f"out={folder / 'tokenizer'}", "steps=4")
    succeeds("train.py", *GENERATOR, f"out={folder / 'token'}", f"tokenizer={folder / 'tokenizer'}", "steps=4")
    return folder


@pytest.fixture(scope="module")
def words(runs, inception) -> list[str]:
    np.savez(runs / "reference.npz", np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8))
    return [f"reference={runs / 'reference.npz'}", f"inception_weights={inception}", "unverified=true", "scores=fid",
            f"cache={runs / 'cache'}"]  # fmt: skip


@pytest.fixture(scope="module")
def direct(runs, words) -> dict:
    """Two seeds, nothing written but scores."""
    before = set(runs.rglob("*"))
    out = succeeds("evaluate.py", runs / "token", *REQUEST, *words, "seeds=2")
    assert "mean of 2 seeds" in out
    made = {p.relative_to(runs).parts[0] for p in set(runs.rglob("*")) - before}
    assert made == {"token", "cache"} and not list(runs.rglob("images.npz")) and not list(runs.rglob("*.parts"))
    return json.loads((runs / "token" / "scores.json").read_text())


def test_every_seed_scores_like_its_written_images(runs, words, direct, tmp_path):
    entry = next(iter(direct["scores"].values()))
    assert direct["samples"]["seeds"] == [0, 1] and len(entry["seeds"]) == 2 and entry["seeds"][0] != entry["seeds"][1]
    assert entry["value"] == pytest.approx(np.mean(entry["seeds"])) and entry["min"] == min(entry["seeds"])
    for i, seed in enumerate((0, 1)):
        out = tmp_path / f"{seed}"
        succeeds("sample.py", runs / "token", *REQUEST, f"seed={seed}", f"out={out}")
        succeeds("evaluate.py", out, *words, "batch_size=4")
        written = json.loads((out / "scores.json").read_text())
        assert written["samples"]["sha256_of_pixels"] == direct["samples"]["sha256_of_pixels"][i : i + 1]
        assert next(iter(written["scores"].values()))["value"] == entry["seeds"][i], "to the last bit"
        assert written["protocol"] == direct["protocol"], "the way does not matter, so they may be compared"
    told = succeeds("evaluate.py", "compare", runs / "token", tmp_path / "0")
    assert "must not be compared" not in told


def test_what_made_them_is_recorded(direct, runs):
    run = direct["samples"]["run"]
    assert run["request"]["sampler"]["name"] == "jacobi" and run["request"]["guidance"] == "2"
    assert run["checkpoint"]["step"] == 4 and run["weights"] == "EMA"
    assert direct["protocol"]["pixels"] == {"resize": "none", "size": 16, "quantize": "round"}
    assert "published scores are of 50,000" in direct["warnings"]["sample_count"]


def test_a_finished_score_is_told_again_and_another_is_not_put_in_its_place(runs, words, direct):
    path = runs / "token" / "scores.json"
    before = path.read_bytes()
    assert "was written before" in succeeds("evaluate.py", runs / "token", *REQUEST, *words, "seeds=2")
    fails("holds other scores", "evaluate.py", runs / "token", *REQUEST, *words, "guidance=3")
    assert path.read_bytes() == before


def test_pixels_of_a_decoder_may_be_truncated_and_resized(runs, words, direct):
    out = runs / "truncated.json"
    succeeds("evaluate.py", runs / "token", *REQUEST, *words, "pixels.quantize=truncate", "pixels.resize=bicubic",
             "pixels.size=12", f"out={out}")  # fmt: skip
    result = json.loads(out.read_text())
    assert result["protocol"]["pixels"] == {"resize": "bicubic", "size": 12, "quantize": "truncate"}
    assert result["samples"]["sha256_of_pixels"] != direct["samples"]["sha256_of_pixels"][:1]
    told = succeeds("evaluate.py", "compare", runs / "token", out)
    assert "pixels.quantize round, here truncate" in told and "must not be compared" in told


def test_what_cannot_be_scored(runs, words, tmp_path):
    fails("is a tokenizer", "evaluate.py", runs / "tokenizer", *words)
    fails("drafts by itself; leave draft=", "evaluate.py", runs / "token", *REQUEST, *words, f"draft={runs / 'token'}")
    damaged = tmp_path / "token"
    shutil.copytree(runs / "token", damaged)
    (damaged / "step_00000004" / "model.safetensors").write_bytes(b"x")
    fails("model.safetensors", "evaluate.py", damaged, *words, f"tokenizer={runs / 'tokenizer'}")
