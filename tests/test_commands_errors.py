"""Bad input of train.py and sample.py: one clear line, and nothing written or lost; help and a dry run."""

from __future__ import annotations

import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from pointillist.training import checkpoint
from tests.commands import GENERATOR, TOKENIZER, fails, sampled, succeeds


def test_help_and_choices_list_what_there_is():
    text = succeeds("train.py", *TOKENIZER, "--help")
    assert "tokenizer.levels" in text and "(conv | latent | patches | pyramid | vqgan | vqvae)" in text
    assert "ancestral" in succeeds("sample.py", "sampler=?")


def test_a_dry_run_counts_and_writes_nothing(tokenizer, tmp_path):
    words = [*GENERATOR, f"tokenizer={tokenizer}", f"out={tmp_path / 'run'}", "dry_run=true"]
    text = succeeds("train.py", *words)
    assert "M parameters" in text and "GFLOP an image" in text and not (tmp_path / "run").exists()


def test_bad_options_are_one_line(tokenizer, tmp_path):
    run = f"out={tmp_path / 'run'}"
    fails("Did you mean: 'steps'?", "train.py", *TOKENIZER, run, "step=3")
    fails("no configuration file nowhere.yaml", "train.py", "nowhere.yaml")
    fails("choose one of conv, latent, patches, pyramid", "train.py", *TOKENIZER, run, "tokenizer=cnv")
    fails("expected key=value, got 'steps'", "train.py", *TOKENIZER, run, "steps")
    fails("choose one of nano", "train.py", *GENERATOR, run, f"tokenizer={tokenizer}", "model.size=huge")
    fails("no run at nowhere", "train.py", *GENERATOR, run, "tokenizer=nowhere")
    fails(
        "the tokenizer was trained at 16 pixels", "train.py", *GENERATOR, run, f"tokenizer={tokenizer}", "views.size=32"
    )
    fails("unknown flag --steps", "train.py", "--steps")
    (tmp_path / "bad.yaml").write_text("steps: [1\n")
    fails("is not valid YAML", "train.py", tmp_path / "bad.yaml")
    fails("no run at nowhere", "sample.py", "nowhere")
    fails("holds no checkpoint", "sample.py", tmp_path)
    fails("a generator is needed here", "sample.py", tokenizer, f"out={tmp_path / 's'}")


def test_a_sample_request_that_cannot_be_met_is_one_line(generator, tmp_path):
    out = f"out={tmp_path / 's'}"
    fails("no class 'Cats'", "sample.py", generator, out, "classes=Cats")
    fails("top_p must lie in (0, 1]", "sample.py", generator, out, "top_p=0")
    fails("num_images and batch_size", "sample.py", generator, out, "num_images=0")
    assert not (tmp_path / "s").exists()


def test_wrong_combinations_are_refused_with_those_that_fit(generator, tokenizer, tmp_path):
    fails("units for this sampler: masked", "sample.py", generator, "sampler=masked")
    words = [*GENERATOR, f"out={tmp_path / 'r'}", f"tokenizer={tokenizer}"]
    fails("tokenizer=pyramid trains such a one; units that fit: ", "train.py", *words, "unit=scale")
    fails("needs continuous codes", "train.py", *words, "unit=flow")
    fails("decodes in a fixed order; units of any order: ", "sample.py", generator, "order=snake")
    fails("unit.order cannot change after training", "sample.py", generator, "unit.order=snake")
    fails("model.flow_steps cannot change after training", "sample.py", generator, "model.flow_steps=5")
    fails("model.books=chain needs several books", "train.py", *words, "model.books=chain")
    assert not (tmp_path / "r").exists()


def test_a_retrained_tokenizer_is_noticed(generator, tokenizer, tmp_path):
    other = tmp_path / "tokenizer"
    succeeds("train.py", *TOKENIZER, f"out={other}", "steps=2")
    fails(
        "this generator's codes were made with", "sample.py", generator, f"tokenizer={other}", f"out={tmp_path / 's'}"
    )


def test_a_draft_of_another_tokenizer_is_refused(generator, tokenizer, tmp_path):
    succeeds("train.py", *TOKENIZER, f"out={tmp_path / 't'}", "steps=2")
    succeeds("train.py", *GENERATOR, f"out={tmp_path / 'g'}", f"tokenizer={tmp_path / 't'}", "steps=2")
    drafted, out = ["sampler=jacobi", "sampler.drafter=model"], f"out={tmp_path / 's'}"
    fails("choose a draft of the same tokenizer", "sample.py", generator, *drafted, f"draft={tmp_path / 'g'}", out)
    fails("no run at nowhere", "sample.py", generator, *drafted, "draft=nowhere", out)
    fails("a generator is needed here", "sample.py", generator, *drafted, f"draft={tokenizer}", out)
    fails("name it: draft=RUN", "sample.py", generator, *drafted, out)
    fails("drafts by itself", "sample.py", generator, f"draft={generator}", out)
    assert not (tmp_path / "s").exists(), "nothing is written before all that can be checked is"
    told = sampled(generator, tmp_path / "s", *drafted, f"draft={generator}")
    assert told["draft"]["sha256"] == told["checkpoint"]["sha256"], "the control: its own tokenizer"


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "config.json"])
def test_a_truncated_checkpoint_is_named(name, generator, tokenizer, tmp_path):
    run = tmp_path / "generator"
    shutil.copytree(generator, run)
    file = checkpoint.locate(run) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if name == "state.pt":
        (run / "options.json").unlink()
        words = [*GENERATOR, f"out={run}", f"tokenizer={tokenizer}", "steps=9"]
        fails("state.pt is damaged, truncated or unsafe", "train.py", *words)
    else:
        fails(f"{name} ", "sample.py", run, f"tokenizer={tokenizer}", f"out={tmp_path / 's'}")


def test_an_unsafe_training_state_is_never_executed(generator, tokenizer, tmp_path):
    run, marker = tmp_path / "generator", tmp_path / "executed"
    shutil.copytree(generator, run)
    (run / "options.json").unlink()

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    torch.save(Attack(), checkpoint.locate(run) / "state.pt")
    words = [*GENERATOR, f"out={run}", f"tokenizer={tokenizer}", "steps=9"]
    fails("damaged, truncated or unsafe", "train.py", *words)
    assert not marker.exists()


def test_a_folder_of_images_trains_and_a_bad_image_is_named(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / ("cats", "dogs")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    words = [*TOKENIZER, "data=folder", f"data.root={tmp_path / 'images'}", "data.heldout=0.3", "steps=2"]
    succeeds("train.py", *words, f"out={tmp_path / 'run'}")
    nan = np.full((20, 20), np.nan, np.float32)
    for i in (0, 2, 4):  # whatever the split, one of them is met
        Image.fromarray(nan).save(tmp_path / "images" / "cats" / f"{i}.tiff")
    fails("pixels that are NaN or infinite", "train.py", *words, f"out={tmp_path / 'second'}")
    for bad in (tmp_path / "images").rglob("*.tiff"):
        bad.unlink()
    for whole in (tmp_path / "images" / "dogs").glob("*.png"):
        whole.write_bytes(whole.read_bytes()[:200])
    fails("cannot read image dogs", "train.py", *words, f"out={tmp_path / 'third'}")


def test_a_loss_that_is_not_finite_stops_before_the_step(tokenizer, tmp_path):
    words = [*GENERATOR, f"tokenizer={tokenizer}", f"out={tmp_path / 'run'}", "steps=30", "optimization.lr=1e30"]
    fails("stopped before the step", "train.py", *words)
    assert not checkpoint.steps(tmp_path / "run")


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_a_full_disk_keeps_what_was_there(tokenizer, generator, tmp_path):
    """A file-size limit stands for a full disk: writing fails in the middle of a file with an OSError."""
    run = tmp_path / "run"
    words = [*GENERATOR, f"tokenizer={tokenizer}", f"out={run}", "steps=4"]
    fails("could not write checkpoint", "train.py", *words, preexec_fn=limit_file_size)
    assert not list(run.glob("step_*"))
    succeeds("train.py", *words)
    out = tmp_path / "samples"
    words = [generator, f"out={out}", "num_images=600"]
    fails("make room", "sample.py", *words, preexec_fn=limit_file_size)
    assert not (out / "images.npz").exists()
    succeeds("sample.py", *words)
