"""evaluate.py as a user runs it, with the Inception network at random weights: names, agreement with torch-fidelity,
stopping, processes, references, and the conformance check on a miniature of ADM's files."""

from __future__ import annotations

import json
import os
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

from pointillist.configs.files import file_hash
from pointillist.configs.options import ROOT
from pointillist.evaluate import main
from pointillist.evaluation.networks import inception as network_file
from tests.commands import command, fails, succeeds
from tests.random_inception import pictures

COUNT, REFERENCES = 20, 24
SMALL = ["scores=fid,sfid,inception_score,precision_recall,kid", "kid.subset_size=10", "kid.subsets=5",
         "inception_score.split_size=8", "batch_size=8"]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """samples.npz with labels and reference.npz, small pictures."""
    folder = tmp_path_factory.mktemp("images")
    np.savez(folder / "samples.npz", arr_0=nhwc(pictures(COUNT, 32, 1)), arr_1=np.arange(COUNT) % 5)
    np.savez(folder / "reference.npz", arr_0=nhwc(pictures(REFERENCES, 32, 2)))
    return folder


def nhwc(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def words(files, inception) -> list[str]:
    return [f"reference={files / 'reference.npz'}", f"inception_weights={inception}", "unverified=true",
            f"cache={files / 'cache'}", *SMALL]  # fmt: skip


@pytest.fixture(scope="module")
def result(files, words) -> dict:
    """scores.json of a run that nothing disturbed."""
    succeeds("evaluate.py", files / "samples.npz", *words)
    assert not (files / "scores.json.parts").exists()
    return json.loads((files / "scores.json").read_text())


def evaluate(*argv) -> dict:
    """In this process; returns what was written to out=."""
    argv = [str(a) for a in argv]
    main(argv)
    out = next(a for a in argv if a.startswith("out="))
    return json.loads(Path(out[4:]).read_text())


def values(result: dict) -> dict[str, float]:
    return {name.split("(")[0]: entry["value"] for name, entry in result["scores"].items()}


# --------------------------------------------------------------------------------------------------- names and protocol


def test_random_weights_earn_no_published_name(result, inception):
    mark = f"(inception-{file_hash(inception)[:8]})"
    expected = ["frechet", "spatial_frechet", "class_divergence", "precision", "recall", "kernel_distance"]
    assert list(result["scores"]) == [name + mark for name in expected]
    text = json.dumps(result["scores"]).lower()
    assert "fid" not in text and '"is"' not in text


def test_the_protocol_says_how_it_was_made(result, inception):
    protocol = result["protocol"]
    assert (protocol["count"], protocol["label_policy"]) == (COUNT, "balanced")
    assert protocol["networks"]["inception"]["sha256"] == file_hash(inception)
    assert protocol["reference"]["image_count"] == REFERENCES
    assert protocol["reference"]["moments_of"] == {"inception/pool": REFERENCES, "inception/spatial": REFERENCES}
    assert protocol["scores"]["precision_recall"] == {"k": 3, "precision": "fp32"}
    assert protocol["scores"]["inception_score"]["split_size"] == 8
    assert protocol["pixels"] == {"resize": "none", "size": 32, "quantize": "as stored"}
    assert set(result["warnings"]) == {"sample_count", "few_samples", "few_reference_images"}


def test_published_weights_earn_them(files, words, result, inception, monkeypatch, tmp_path):
    monkeypatch.setattr(network_file, "PUBLISHED", file_hash(inception)[:8])
    found = evaluate(files / "samples.npz", *words, f"out={tmp_path / 's.json'}", "unverified=false")
    assert list(found["scores"]) == ["fid", "sfid", "is", "precision", "recall", "kid"]
    assert list(values(found).values()) == list(values(result).values())


def test_what_is_missing_is_said_in_one_line(files, words, tmp_path):
    samples = files / "samples.npz"
    other = [w for w in words if not w.startswith(("inception_weights", "unverified"))]
    environment = {**os.environ, "TORCH_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "evaluate.py", str(samples), *other], cwd=ROOT, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "https://github.com/toshas/torch-fidelity/releases" in done.stderr and "inception_weights=" in done.stderr
    fails("is not the published file", "evaluate.py", samples, *words, "unverified=false")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["reference=emojy"], "Did you mean 'emoji'"),
        (["scores=fid,fidd"], "Did you mean 'fid'"),
        (["scores=fid,fid"], "names one twice"),
        (["scores="], "names nothing"),
        (["reference="], "compared with what"),
        (["reference_split=heldout"], "are for data sets"),
        (
            ["reference=emoji", "reference_pixels.resize=adm", "reference_pixels.size=32"],
            "reference_pixels.* are for files",
        ),
        (["bootstrap=5", "seeds=2"], "bring a width of their own"),
        (["published=llamagen-l-38"], "Did you mean 'llamagen-l-384'"),
        (["out=scores"], "must be a file that ends with .json"),
        (["scores=fid,offline"], "the offline score stands alone"),
        (["guidance=2"], "guidance can only be asked of a generator's run"),
        (["kid.subset_size=21"], "21"),
        (["seeds=0"], "seeds and batch_size must be at least 1"),
        (["pixels.size=64"], "add pixels.resize="),
        (["scores=fid_infinity"], "5000"),
    ],
)
def test_requests_that_cannot_be(files, words, argv, message):
    kept = [w for w in words if w.split("=")[0] not in {a.split("=")[0] for a in argv}]
    with pytest.raises((ValueError, OSError), match=message):
        main([str(files / "samples.npz"), *kept, *argv])


# ------------------------------------------------------------------------------------------------------- torch-fidelity


def test_torch_fidelity_says_the_same_of_the_same_images(files, inception, result, words, tmp_path, monkeypatch):
    """Statistics there are of float32 means and its root is of eigenvalues of a product without full rank: 1e-5 here.
    The inception score there is of a permutation: by option here too."""
    import torch_fidelity

    class Bytes(torch.utils.data.Dataset):
        def __init__(self, name):
            self.images = torch.from_numpy(np.load(files / f"{name}.npz")["arr_0"]).permute(0, 3, 1, 2)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    with monkeypatch.context() as m:  # 0.4.0 unpickles its weights file without safety; this one is ours
        m.setenv("TORCH_HOME", str(tmp_path))
        theirs = torch_fidelity.calculate_metrics(
            input1=Bytes("samples"), input2=Bytes("reference"), cuda=False, isc=True, fid=True, kid=True, prc=True,
            feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(inception), batch_size=8,
            isc_splits=4, kid_subset_size=10, kid_subsets=5, save_cpu_ram=True, cache=False, verbose=False,
        )  # fmt: skip
    shuffled = ["inception_score.rule=torch_fidelity", "inception_score.splits=4", "scores=inception_score"]
    kept = [w for w in words if not w.startswith("scores=")]
    exact = ["bank=fp32", f"out={tmp_path / 'k.json'}"]
    ours = values(result) | values(evaluate(files / "samples.npz", *kept, "scores=kid", *exact))
    ours |= values(evaluate(files / "samples.npz", *kept, *shuffled, f"out={tmp_path / 's.json'}"))
    assert ours["frechet"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["class_divergence"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert ours["kernel_distance"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4, abs=1e-7)
    assert (ours["precision"], ours["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    ordered = values(result)["class_divergence"]
    assert abs(ordered - theirs["inception_score_mean"]) > 1e-3, "the control: file order is another number"


# ----------------------------------------------------------------------------------------------- stopping and processes


def test_killed_and_started_again(files, words, result, tmp_path):
    shutil.copy(files / "samples.npz", tmp_path)
    line = [sys.executable, str(ROOT / "evaluate.py"), str(tmp_path / "samples.npz"), *words, "save_every=0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(line, **quiet, env=os.environ | {"OMP_NUM_THREADS": "1"})
    state = tmp_path / "scores.json.parts" / "images" / "state-0.safetensors"
    while not state.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert state.is_file() and not (tmp_path / "scores.json").exists()
    succeeds("evaluate.py", tmp_path / "samples.npz", *words)
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again["scores"] == result["scores"], "to the last bit: batches are the same blocks of images"


def test_two_processes_and_other_batches_give_the_same(files, words, result, tmp_path):
    run = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(ROOT / "evaluate.py")]
    more = [f"out={tmp_path / 's.json'}", "batch_size=3", f"cache={tmp_path / 'cache'}"]
    kept = [w for w in words if not w.startswith(("batch_size", "cache"))]
    done = subprocess.run([sys.executable, *run, str(files / "samples.npz"), *kept, *more],
                          capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shared = json.loads((tmp_path / "s.json").read_text())
    assert values(shared) == pytest.approx(values(result), rel=1e-4)
    assert shared["environment"]["processes"] == 2 and shared["samples"] == result["samples"]


# ------------------------------------------------------------------------------------------- sources of the same images


def test_a_folder_of_pictures_scores_like_their_npz(files, words, result, tmp_path):
    for i, image in enumerate(np.load(files / "samples.npz")["arr_0"]):
        Image.fromarray(image).save(tmp_path / f"{i:03}.png")
    found = evaluate(tmp_path, *words, f"out={tmp_path / 's.json'}")
    assert values(found) == values(result), "numbers to the last bit"
    assert found["samples"]["sha256_of_pixels"] == result["samples"]["sha256_of_pixels"]
    assert found["protocol"]["label_policy"] == "no labels"


def test_several_sets_are_scored_one_after_another(files, words, tmp_path, capsys):
    """As the points of a sweep are."""
    sets = [tmp_path / name / "images.npz" for name in ("a", "b=1")]
    for seed, path in enumerate(sets):
        path.parent.mkdir()
        np.savez(path, nhwc(pictures(4, 32, seed)))
    main([*map(str, [s.parent for s in sets]), *words, "scores=fid"])
    scores = [json.loads((path.parent / "scores.json").read_text()) for path in sets]
    assert values(scores[0]) != values(scores[1]) and "written before" not in capsys.readouterr().out
    main([*map(str, [s.parent for s in sets]), *words, "scores=fid"])
    assert capsys.readouterr().out.count("was written before") == 2
    with pytest.raises(ValueError, match="is one file for 2 sets"):
        main([*map(str, sets), *words, f"out={tmp_path / 's.json'}"])


def test_the_reference_itself_is_noticed(files, words, tmp_path):
    found = evaluate(files / "reference.npz", *words, f"out={tmp_path / 's.json'}", "bank=fp32")
    scores = values(found)
    assert scores["frechet"] < 1e-6 and scores["precision"] == scores["recall"] == 1
    assert {"identical_to_reference", "equal_to_reference"} <= set(found["warnings"])


# ----------------------------------------------------------------------------------------------------------- references


@pytest.fixture(scope="module")
def made(files, inception) -> Path:
    out = files / "made.npz"
    asked = [f"out={out}", "images=10", f"inception_weights={inception}", "unverified=true", "batch_size=8"]
    succeeds("evaluate.py", "make-reference", files / "reference.npz", *asked)
    return out


def test_a_reference_has_the_layout_of_adm(made, files):
    with np.load(made) as file:
        shapes = {k: (file[k].shape, str(file[k].dtype)) for k in file.files if k != "protocol"}
        kept = file["arr_0"]
    assert shapes == {
        "mu": ((2048,), "float32"), "sigma": ((2048, 2048), "float64"),
        "mu_s": ((2023,), "float32"), "sigma_s": ((2023, 2023), "float64"), "arr_0": ((10, 32, 32, 3), "uint8"),
    }  # fmt: skip
    np.testing.assert_array_equal(kept, np.load(files / "reference.npz")["arr_0"][np.linspace(0, 23, 10).astype(int)])
    assert not made.with_name("made.npz.parts").exists()


def test_stored_statistics_serve_distances_and_stored_images_neighbours(made, files, words, result, tmp_path):
    found = evaluate(files / "samples.npz", *words, f"reference={made}", f"out={tmp_path / 's.json'}")
    ours, before = values(found), values(result)
    for name in ("frechet", "spatial_frechet"):  # of all 24 images; float32 means
        assert ours[name] == pytest.approx(before[name], rel=1e-5)
    assert ours["recall"] * 10 == pytest.approx(round(ours["recall"] * 10)), "a share of the ten images that were kept"
    assert found["protocol"]["reference"]["image_count"] == 10
    assert found["protocol"]["reference"]["moments_of"] == {"inception/pool": 24, "inception/spatial": 24}
    assert "of 24 images" in found["warnings"]["few_reference_images"]


def test_references_that_lack_something(made, files, words, tmp_path):
    whole = dict(np.load(made))
    np.savez(tmp_path / "bare.npz", mu=whole["mu"], sigma=whole["sigma"])
    found = evaluate(files / "samples.npz", *words, f"reference={tmp_path / 'bare.npz'}", "scores=fid",
                     f"out={tmp_path / 's.json'}")  # fmt: skip
    assert len(found["scores"]) == 1
    np.savez(tmp_path / "half.npz", mu=whole["mu"], sigma=whole["sigma"], arr_0=whole["arr_0"])
    np.savez(tmp_path / "nan.npz", mu=whole["mu"] * np.nan, sigma=whole["sigma"])
    np.savez(tmp_path / "one.npz", mu=whole["mu"])
    for name, message in (
        ("bare", "no images .arr_0.; these scores also need inception/pool, inception/spatial: leave"),
        ("half", "but not inception/spatial"),
        ("nan", "or they hold NaN"),
        ("one", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            main([str(files / "samples.npz"), *words, f"reference={tmp_path / name}.npz", f"out={tmp_path / 'n.json'}"])


# ---------------------------------------------------------------------------------------------------------- conformance


def test_conformance_on_a_miniature(files, made, words, inception, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(network_file, "PUBLISHED", file_hash(inception)[:8])
    shutil.copy(files / "samples.npz", tmp_path / "mini_samples.npz")
    shutil.copy(made, tmp_path / "mini_reference.npz")
    true = values(evaluate(files / "samples.npz", *words, f"reference={made}", f"out={tmp_path / 's.json'}"))
    rows = tmp_path / "rows.yaml"
    asked = [str(tmp_path), f"rows={rows}", f"inception_weights={inception}", "batch_size=8", f"cache={tmp_path / 'c'}"]

    one = ["scores=inception_score", "inception_score.split_size=5000", f"out={tmp_path / 'i.json'}"]
    whole = values(evaluate(files / "samples.npz", *words, *one))["is"]

    def expect(**changed: float) -> None:
        numbers = {name: true[name] for name in ("fid", "sfid", "precision", "recall")} | {"is": whole} | changed
        entry = {"samples": "mini/mini_samples.npz", "reference": "mini/mini_reference.npz"}
        tolerances = {"fid": "0.01 %", "sfid": "0.01 %", "is": "0.01 %", "precision": 0.051, "recall": 0.11}
        text = {"files": "https://example.org", "tolerances": tolerances}
        rows.write_text(json.dumps({**text, "rows": {"mini": entry | {"adm": numbers, "pytorch": numbers}}}))

    expect()
    main(["conformance", *asked])
    assert capsys.readouterr().out.count("| pass") >= 10
    expect(sfid=1.001 * true["sfid"])
    with pytest.raises(SystemExit) as stopped:
        main(["conformance", *asked])
    assert stopped.value.code == 1 and "2 scores are not the published ones" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="lacks https://.*imagenet256.npz and https://.*VIRTUAL_imagenet256"):
        main(["conformance", str(tmp_path)])


def test_help_of_every_command():
    for name in ("", "compare", "table", "make-reference", "conformance", "tokenizer"):
        out = succeeds("evaluate.py", *([name] if name else []), "--help")
        assert "Options, with [defaults]:" in out and "evaluate.py" in out
    assert command("evaluate.py", "compare").returncode == 2
