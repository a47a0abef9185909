"""train.py and sample.py as a user runs them: stop and continue to the last bit, one clear line for bad input."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pointillist.configs.options import ROOT
from pointillist.training import checkpoint
from pointillist.training.load import load_generator, load_tokenizer
from pointillist.training.log import read_log

TINY = ["views.size=16", "batch_size=8", "evaluate_every=100", "log_every=1", "optimization.warmup=2", "precision=fp32"]
TOKENIZER = ["task=tokenizer", "tokenizer.widths=[16,16]", "tokenizer.levels=[4,4,3]", "tokenizer.blocks=1", *TINY]
GENERATOR = ["task=generator", "model.size=nano", *TINY]


def command(script: str, *words: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POINTILLIST_TRACEBACK": ""}
    line = [sys.executable, str(ROOT / script), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300, **options)


def succeeds(script: str, *words: str, **options) -> str:
    done = command(script, *words, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def fails(message: str, script: str, *words: str, **options) -> None:
    """Exit code 2 and one line on stderr that says `message`; progress bars aside."""
    done = command(script, *words, **options)
    lines = [x for x in done.stderr.replace("\r", "\n").splitlines() if "error:" in x or "Traceback" in x]
    assert done.returncode == 2 and len(lines) == 1, done.stderr[-2000:]
    assert message in lines[0], lines[0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tokenizer"
    succeeds("train.py", *TOKENIZER, f"out={run}", "steps=6")
    return run


@pytest.fixture(scope="module")
def generator(tokenizer) -> Path:
    run = tokenizer.parent / "generator"
    succeeds("train.py", *GENERATOR, f"out={run}", f"tokenizer={tokenizer}", "steps=6", "keep_steps=[3]")
    return run


def final_files(run: Path) -> tuple[dict, dict, list[dict]]:
    """Weights, training state and log of a run's last step, without clock readings."""
    folder = checkpoint.locate(run)
    state = checkpoint.read_state(folder)
    records = [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(run / "log.jsonl")]
    return {"ema": (folder / "model.safetensors").read_bytes()}, {**state, "seconds": 0}, records


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# --------------------------------------------------------------------------------------------------- stop and continue


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
    stopped = tmp_path / "stopped"
    line = [sys.executable, str(ROOT / "train.py"), *words, f"out={stopped}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(line, **quiet, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not checkpoint.steps(stopped) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(how)
    code = process.wait(timeout=60)
    assert code == (-how if how == signal.SIGKILL else 0)
    assert checkpoint.steps(stopped)[-1] < 100, "the run was to be stopped before its end"
    succeeds("train.py", *words, f"out={stopped}")
    assert equal(final_files(whole), final_files(stopped))
    assert not list(stopped.glob("*.tmp"))
    if how == signal.SIGKILL:
        assert "is finished" in succeeds("train.py", *words, f"out={stopped}")


def test_other_seeds_differ(generator, tokenizer, tmp_path):
    """The control of the equality above."""
    succeeds("train.py", *GENERATOR, f"tokenizer={tokenizer}", f"out={tmp_path}", "steps=6", "seed=1", "keep_steps=[3]")
    assert not equal(final_files(generator), final_files(tmp_path))


def test_resuming_with_other_options_is_refused(generator, tokenizer):
    words = [*GENERATOR, f"out={generator}", f"tokenizer={tokenizer}", "steps=6", "model.dim=128"]
    fails("was started otherwise: model.dim was None, is 128", "train.py", *words)


def test_checkpoints_are_pruned_but_kept_steps_stay(generator):
    assert checkpoint.steps(generator) == [3, 6]


# ------------------------------------------------------------------------------------------------------------- loading


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


def test_a_retrained_tokenizer_is_noticed(generator, tokenizer, tmp_path):
    other = tmp_path / "tokenizer"
    succeeds("train.py", *TOKENIZER, f"out={other}", "steps=2")
    fails(
        "this generator's codes were made with", "sample.py", generator, f"tokenizer={other}", f"out={tmp_path / 's'}"
    )


# ------------------------------------------------------------------------------------------------------------ sampling


def samples(generator: Path, out: Path, *words: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    succeeds("sample.py", generator, f"out={out}", "num_images=20", "guidance=2", "precision=fp64", *words)
    with np.load(out / "images.npz") as images, np.load(out / "codes.npz") as codes:
        return images["arr_0"], images["arr_1"], codes["codes"]


def test_images_do_not_depend_on_the_batch_size(generator, tmp_path):
    images, labels, codes = samples(generator, tmp_path / "a", "batch_size=20")
    assert images.shape == (20, 16, 16, 3) and images.dtype == np.uint8 and len(labels) == 20
    for other in (
        samples(generator, tmp_path / "b", "batch_size=3"),
        samples(generator, tmp_path / "c", "batch_size=1"),
    ):
        assert np.array_equal(other[2], codes) and np.array_equal(other[1], labels) and np.array_equal(other[0], images)
    assert not np.array_equal(samples(generator, tmp_path / "d", "seed=1")[2], codes), "the control: another seed"
    report = json.loads((tmp_path / "a" / "sample.json").read_text())
    assert report["trace"]["nfe_per_image"] == 16 and report["trace"]["streams"] == 2
    assert report["options"]["seed"] == 0 and report["checkpoint"]["step"] == 6 and report["versions"]["torch"]
    assert report["law"] == "exact" and report["draft"] is None and report["spec"]["grids"] == [[4, 4]]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "codes.npz", "grid.png", "images.npz", "request.json", "sample.json"
    ]  # fmt: skip
    assert "is finished" in succeeds(
        "sample.py", generator, f"out={tmp_path / 'a'}", "num_images=20", "guidance=2", "precision=fp64"
    )


def test_a_killed_sampling_run_continues(generator, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ["num_images=300", "batch_size=2", "precision=fp64"]
    succeeds("sample.py", generator, f"out={whole}", *words)
    line = [sys.executable, str(ROOT / "sample.py"), str(generator), f"out={killed}", *words]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    done = killed / "parts" / "done.npy"
    while process.poll() is None and not (done.is_file() and np.load(done).any()):
        time.sleep(0.02)
    process.kill()
    process.wait()
    made = int(np.load(done).sum())
    assert 0 < made < 300
    succeeds("sample.py", generator, f"out={killed}", "num_images=300", "batch_size=50", "precision=fp64")
    for name in ("images.npz", "codes.npz"):
        with np.load(whole / name) as a, np.load(killed / name) as b:
            assert all(np.array_equal(a[k], b[k]) for k in a.files)
    fails("holds other samples: seed was 0, is 1", "sample.py", generator, f"out={killed}", *words, "seed=1")


# -------------------------------------------------------------------------------------------------------------- sweeps

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
    alone = succeeds_to_json(generator, tmp_path / "alone", "num_images=60", "guidance=2", "precision=fp64",
                             "sampler=jacobi", "sampler.window=3")  # fmt: skip
    with np.load(tmp_path / "alone" / "codes.npz") as a, np.load(swept / "points/jacobi-guidance2/codes.npz") as b:
        assert np.array_equal(a["codes"], b["codes"]), "a point is what the single command makes"
    assert json.loads(alone)["trace"]["nfe"] == json.loads((swept / "points/jacobi-guidance2/sample.json").read_text())[
        "trace"]["nfe"]  # fmt: skip


def test_exact_samplers_are_surprised_as_the_law_says(swept):
    """benchmarks/surprise.py: 0 in the mean; and the same number for the same images."""
    points = [swept / "points" / f"{sampler}-guidance2" for sampler in ("ancestral", "jacobi")]
    rows = [line.split("|") for line in succeeds("benchmarks/surprise.py", *points).splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["ancestral", "jacobi"] and rows[0][5:7] == rows[1][5:7]
    assert abs(float(rows[0][5])) < 5 * float(rows[0][6]) and float(rows[0][6]) > 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_stopped_sweep_continues_to_the_same_rows(how, swept, generator, tmp_path):
    out = tmp_path / "sweep"
    line = [sys.executable, str(ROOT / "sample.py"), str(generator), *SWEEP, f"out={out}"]
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    partly = out / "points" / "ancestral-guidance2" / "parts" / "done.npy"
    while process.poll() is None and not (partly.is_file() and np.load(partly).any()):
        time.sleep(0.01)
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (-how if how == signal.SIGKILL else 130), said[-500:]
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
    told = json.loads(succeeds_to_json(generator, tmp_path / "s", *drafted, f"draft={generator}"))
    assert told["draft"]["sha256"] == told["checkpoint"]["sha256"], "the control: its own tokenizer"


# -------------------------------------------------------------------------------------------------------------- errors


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


@pytest.fixture(scope="module")
def any_order(tokenizer) -> Path:
    run = tokenizer.parent / "masked"
    succeeds("train.py", *GENERATOR, f"out={run}", f"tokenizer={tokenizer}", "steps=4", "unit=masked")
    return run


def test_inpainting_keeps_the_codes_outside_the_mask(any_order, generator, tokenizer, tmp_path):
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(image)
    white = np.zeros((40, 50), np.uint8)
    white[:, 30:] = 255
    Image.fromarray(white).save(mask)
    codes, request = {}, ["num_images=5", f"image={image}"]
    for name, region, sampler in (("a", "right", "ancestral"), ("b", mask, "masked"), ("c", "right", "masked")):
        succeeds("sample.py", any_order, *request, f"mask={region}", f"sampler={sampler}", f"out={tmp_path / name}")
        codes[name] = np.load(tmp_path / name / "codes.npz")["codes"].reshape(5, 4, 4)
    for name in codes:
        assert (codes[name][:, :, :2] == codes["a"][:1, :, :2]).all(), "kept"
        assert (codes[name][:, :, 2:] != codes[name][:1, :, 2:]).any(), "painted"
    fails("before it sees all that are kept; units that can fill any mask: ", "sample.py", generator, *request,
          "mask=left", f"out={tmp_path / 'd'}")  # fmt: skip
    succeeds("sample.py", generator, *request, "mask=bottom", f"out={tmp_path / 'e'}")
    fails("inpainting needs image=FILE and mask", "sample.py", any_order, "mask=left", f"out={tmp_path / 'd'}")
    fails("no image file nowhere", "sample.py", any_order, f"image={image}", "mask=nowhere", f"out={tmp_path / 'd'}")
    fails("kept_sha256 was", "sample.py", any_order, *request, "mask=left", f"out={tmp_path / 'a'}")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "black.png")
    fails("paints nothing", "sample.py", any_order, f"image={image}", f"mask={tmp_path / 'black.png'}", "out=nowhere")
    (tmp_path / "text.png").write_text("text")
    fails("not an image", "sample.py", any_order, f"image={tmp_path / 'text.png'}", "mask=left", "out=nowhere")


def test_orders_and_passes_may_be_chosen_when_sampling(any_order, tmp_path):
    told = json.loads(succeeds_to_json(any_order, tmp_path / "a", "unit.passes=5"))
    assert told["trace"]["nfe_per_image"] == 5
    succeeds("sample.py", any_order, "num_images=3", "order=spiral_in", f"out={tmp_path / 'b'}")
    orders = np.stack([np.random.default_rng(i).permutation(16) for i in range(3)])
    np.save(tmp_path / "orders.npy", orders)
    succeeds("sample.py", any_order, "num_images=3", f"order={tmp_path / 'orders.npy'}", f"out={tmp_path / 'c'}")
    fails("chooses what to decode by itself", "sample.py", any_order, "sampler=masked", "order=snake")
    np.save(tmp_path / "wrong.npy", orders[:2])
    fails("one for each of 3 images", "sample.py", any_order, "num_images=3", f"order={tmp_path / 'wrong.npy'}",
          f"out={tmp_path / 'd'}")  # fmt: skip


def succeeds_to_json(run: Path, out: Path, *words: str) -> str:
    succeeds("sample.py", run, "num_images=3", *words, f"out={out}")
    return (out / "sample.json").read_text()


CONTINUOUS = [*TOKENIZER[:2], "tokenizer=latent", "tokenizer.blocks=1", *TINY]
FAMILIES = {
    "scale": ([*TOKENIZER[:2], "tokenizer=pyramid", "tokenizer.blocks=1", "tokenizer.sides=[1,2,4]",
               "tokenizer.vocab=20", *TINY], ["unit=scale"]),
    "chained books": ([*TOKENIZER, "tokenizer.books=2"], ["unit=cell", "model.books=chain"]),
    "flow": (CONTINUOUS, ["unit=flow", "unit.size=2", "model.flow_steps=3"]),
    "continuous codes masked": (CONTINUOUS, ["unit=masked", "unit.passes=4", "model.flow_steps=3"]),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_codes_goes_all_the_way(family, tmp_path):
    """Tokenizer, codes, generator, its checkpoint read back, samples; the same in any batch."""
    tokenize, generate = FAMILIES[family]
    succeeds("train.py", *tokenize, f"out={tmp_path / 't'}", "steps=4")
    succeeds("train.py", *GENERATOR, *generate, f"tokenizer={tmp_path / 't'}", f"out={tmp_path / 'g'}", "steps=4")
    request = ["num_images=6", "guidance=1..2:steps", "precision=fp64"]
    for size in (6, 2):
        succeeds("sample.py", tmp_path / "g", *request, f"batch_size={size}", f"out={tmp_path / str(size)}")
    if "tokenizer=latent" in tokenize:
        fails("have no top_k, top_p and min_p", "sample.py", tmp_path / "g", "top_p=0.9")
    succeeds("sample.py", tmp_path / "g", "num_images=2", "precision=bf16", f"out={tmp_path / 'bf16'}")
    a, b = (np.load(tmp_path / size / "codes.npz")["codes"] for size in ("6", "2"))
    assert a.shape == b.shape and np.allclose(a, b, atol=1e-6) and (a != a[:1]).any()


def test_help_and_choices_list_what_there_is():
    text = succeeds("train.py", *TOKENIZER, "--help")
    assert "tokenizer.levels" in text and "(conv | latent | patches | pyramid)" in text
    assert "ancestral" in succeeds("sample.py", "sampler=?")


def test_a_dry_run_counts_and_writes_nothing(tokenizer, tmp_path):
    words = [*GENERATOR, f"tokenizer={tokenizer}", f"out={tmp_path / 'run'}", "dry_run=true"]
    text = succeeds("train.py", *words)
    assert "M parameters" in text and "GFLOP an image" in text and not (tmp_path / "run").exists()


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
