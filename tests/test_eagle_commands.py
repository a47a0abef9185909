"""task=eagle and draft=HEAD as a user runs them: a head's checkpoint, its target, and targets that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pointillist.models.eagle import Eagle
from pointillist.training import checkpoint
from pointillist.training.load import load_generator
from tests.commands import GENERATOR, TINY, TOKENIZER, fails, succeeds

HEAD = ["task=eagle", *TINY]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder of a tokenizer, a generator on its codes, and a head for it."""
    folder = tmp_path_factory.mktemp("runs")
    succeeds("train.py", *TOKENIZER, f"out={folder / 'tokenizer'}", "steps=2")
    generate = [*GENERATOR, f"tokenizer={folder / 'tokenizer'}", "steps=4"]
    succeeds("train.py", *generate, f"out={folder / 'token'}")
    succeeds("train.py", *HEAD, f"target={folder / 'token'}", f"out={folder / 'head'}", "steps=4")
    assert list((folder / "head" / "pictures").glob("*.png"))
    return folder


def test_a_checkpoint_holds_the_head_alone_and_finds_its_target(runs):
    folder = checkpoint.locate(runs / "head")
    head, config = load_generator(folder)
    assert set(load_file(folder / "model.safetensors")) == set(head.state_dict())
    assert {k.split(".")[0] for k in head.state_dict()} == {"join", "transformer"}
    generator, theirs = load_generator(runs / "token")
    assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), head.target.parameters(), strict=True))
    assert config["target"]["sha256"] == theirs["sha256"] and config["tokenizer"] == theirs["tokenizer"]
    assert config["spec"] == theirs["spec"] and config["classes"] == theirs["classes"]
    assert not any(p.requires_grad for p in head.parameters()) and not head.training


def test_it_drafts_for_its_target(runs, tmp_path):
    codes = {}
    for name, words in (("a", []), ("b", ["sampler=jacobi", "sampler.drafter=model", f"draft={runs / 'head'}"])):
        words = [*words, "num_images=12", "guidance=2", "precision=fp64", f"out={tmp_path / name}"]
        succeeds("sample.py", runs / "token", *words)
        codes[name] = np.load(tmp_path / name / "codes.npz")["codes"]
    assert np.array_equal(codes["a"], codes["b"])
    trace = json.loads((tmp_path / "b" / "sample.json").read_text())["trace"]
    assert 0 < trace["drafter"]["weight"] < 3 and trace["drafter"]["passes"] > 0 and trace["nfe_per_image"] <= 16
    fails("a draft head cannot be sampled alone", "sample.py", runs / "head", f"out={tmp_path / 'c'}")
    fails("of this draft head these can: none", "sample.py", runs / "head", "unit.passes=3", f"out={tmp_path / 'c'}")


def test_a_head_continues_and_moves_with_its_target(runs, tmp_path):
    moved = tmp_path / "runs"
    shutil.copytree(runs, moved)
    config = checkpoint.locate(moved / "head") / "config.json"
    named = json.loads(config.read_text())
    named["target"]["path"] = "nowhere/token"
    config.write_text(json.dumps(named))
    head, _ = load_generator(moved / "head")
    assert isinstance(head, Eagle), "beside it"
    shutil.rmtree(moved / "token")
    with pytest.raises(FileNotFoundError, match="the target nowhere/token is gone; restore it, or train a head anew"):
        load_generator(moved / "head")


def test_another_target_is_refused(runs, tmp_path):
    moved = tmp_path / "runs"
    shutil.copytree(runs, moved)
    config = checkpoint.locate(moved / "head") / "config.json"
    named = json.loads(config.read_text())
    named["target"]["path"] = str(moved / "token")
    config.write_text(json.dumps(named))
    shutil.rmtree(moved / "token")
    words = [*GENERATOR, f"tokenizer={runs / 'tokenizer'}", "steps=3", f"out={moved / 'token'}"]
    succeeds("train.py", *words)
    with pytest.raises(ValueError, match=r"target weights \w{8}, this draft head was trained on \w{8}; restore"):
        load_generator(moved / "head")


def test_targets_that_do_not_fit_are_refused(runs, tmp_path):
    cells, out = tmp_path / "cell", f"out={tmp_path / 'head'}"
    succeeds("train.py", *GENERATOR, f"tokenizer={runs / 'tokenizer'}", "unit=cell", "steps=2", f"out={cells}")
    fails("which unit=cell does not have; units that fit these codes: patch, rar, token", "train.py", *HEAD, out,
          f"target={cells}")  # fmt: skip
    fails("a draft head needs target=RUN", "train.py", *HEAD, out)
    fails("holds a draft head; a generator is needed here", "train.py", *HEAD, out, f"target={runs / 'head'}")
    fails("a generator is needed here", "train.py", *HEAD, out, f"target={runs / 'tokenizer'}")
    fails("views.size is 32", "train.py", *HEAD, out, f"target={runs / 'token'}", "views.size=32")
    fails("model.depth must be at least 1", "train.py", *HEAD, out, f"target={runs / 'token'}", "model.depth=0")
    assert not (tmp_path / "head").exists()
