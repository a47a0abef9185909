"""train.py stopped and continued: to the last bit, and only what is the same run; what its checkpoints hold."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch

from pointillist.training import checkpoint
from pointillist.training.load import load_generator, load_tokenizer
from pointillist.training.log import read_log
from pointillist.training.speed import CLOCK
from tests.commands import GENERATOR, TOKENIZER, fails, stopped, succeeds


def final_files(run: Path) -> tuple[dict, dict, list[dict]]:
    """Weights, training state and log of a run's last step, without clock readings."""
    folder = checkpoint.locate(run)
    state = checkpoint.read_state(folder)
    records = [{k: v for k, v in r.items() if k not in CLOCK} for r in read_log(run / "log.jsonl")]
    return {"ema": (folder / "model.safetensors").read_bytes()}, {**state, "seconds": 0}, records


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.fixture(scope="module", params=["tokenizer", "generator"])
def undisturbed(request, tokenizer, tmp_path_factory) -> tuple[list[str], Path]:
    """A command of 100 steps and the run that it made without being stopped."""
    words = [*TOKENIZER, "tokenizer.quantizer=vq", "tokenizer.vocab=32"]
    if request.param == "generator":
        words = [*GENERATOR, f"tokenizer={tokenizer}", "optimization.accumulate=2"]
    words += ["steps=100", "save_every=15"]
    run = tmp_path_factory.mktemp("whole")
    succeeds("train.py", *words, f"out={run}")
    return words, run


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_stopped_run_continues_to_the_same_last_bit(how, undisturbed, tmp_path):
    words, whole = undisturbed
    run = tmp_path / "run"
    code, said = stopped(how, lambda: checkpoint.steps(run), "train.py", *words, f"out={run}")
    assert code == (-how if how == signal.SIGKILL else 0), said[-500:]
    assert checkpoint.steps(run)[-1] < 100, "the run was to be stopped before its end"
    succeeds("train.py", *words, f"out={run}")
    assert equal(final_files(whole), final_files(run))
    assert not list(run.glob("*.tmp"))
    if how == signal.SIGKILL:
        assert "is finished" in succeeds("train.py", *words, f"out={run}")


def test_other_seeds_differ(generator, tokenizer, tmp_path):
    """The control of the equality above."""
    succeeds("train.py", *GENERATOR, f"tokenizer={tokenizer}", f"out={tmp_path}", "steps=6", "seed=1", "keep_steps=[3]")
    assert not equal(final_files(generator), final_files(tmp_path))


def test_resuming_with_other_options_is_refused(generator, tokenizer):
    words = [*GENERATOR, f"out={generator}", f"tokenizer={tokenizer}", "steps=6", "model.dim=128"]
    fails("was started otherwise: model.dim was None, is 128", "train.py", *words)


def test_changed_data_and_retrained_tokenizers_do_not_slip_into_a_resumed_run(generator, tokenizer, tmp_path):
    run, moved = tmp_path / "generator", tmp_path / "tokenizer"
    shutil.copytree(generator, run)
    words = [*GENERATOR, f"out={run}", "steps=9", "keep_steps=[3]"]
    succeeds("train.py", *TOKENIZER, f"out={moved}", "steps=2")
    (run / "options.json").unlink()
    fails("tokenizer.sha256 was", "train.py", *words, f"tokenizer={moved}")
    (run / "options.json").unlink(missing_ok=True)
    fails("data.heldout was 0.15, is 0.3", "train.py", *words, f"tokenizer={tokenizer}", "data.heldout=0.3")


def test_a_tokenizer_that_only_moved_is_the_same_one(generator, tokenizer, tmp_path):
    run, moved = tmp_path / "generator", tmp_path / "elsewhere"
    shutil.copytree(generator, run)
    shutil.copytree(tokenizer, moved)
    words = [*GENERATOR, f"out={run}", "steps=6", "keep_steps=[3]", f"tokenizer={moved}"]
    assert "is finished" in succeeds("train.py", *words)


def test_a_first_try_that_failed_leaves_the_folder_usable(tokenizer, tmp_path):
    words = [*GENERATOR, f"out={tmp_path / 'run'}", "steps=2"]
    fails("a generator needs tokenizer=RUN", "train.py", *words)
    succeeds("train.py", *words, f"tokenizer={tokenizer}")


def test_checkpoints_are_pruned_but_kept_steps_stay(generator):
    assert checkpoint.steps(generator) == [3, 6]


def test_config_json_alone_rebuilds_the_models(generator, tokenizer):
    model, config = load_generator(generator)
    frozen, tokenizer_config = load_tokenizer(tokenizer)
    assert (
        config["tokenizer"]["sha256"]
        == tokenizer_config["sha256"]
        == checkpoint.file_hash(checkpoint.locate(tokenizer) / "model.safetensors")
    )
    assert model.spec == frozen.spec
    assert len(config["classes"]) == len(config["class_counts"]) == 9
    assert config["unit"] == {"name": "token", "order": "raster"} and not any(
        p.requires_grad for p in model.parameters()
    )
