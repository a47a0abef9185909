"""The offline score as a whole, on a toy reference of coloured blobs: it finds what is wrong with a set of samples."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointillist.configs.files import write_json
from pointillist.configs.options import run
from pointillist.evaluate import main
from pointillist.evaluation.guards import is_sorted
from pointillist.evaluation.offline.classifier import FeatureNetwork, open_network, train, weights_hash
from pointillist.evaluation.offline.nearest import NearestTrain
from pointillist.evaluation.offline.reference import Reference
from pointillist.evaluation.offline.score import NOTE, check, score
from pointillist.evaluation.offline.text import lines
from pointillist.evaluation.samples import open_samples

ROOT = Path(__file__).parent.parent
CLASSES = ("red", "green", "blue")
SIZE = 16


def blobs(count, seed):
    """uint8 [count, 3, 16, 16], labels: a soft spot of the class's colour somewhere, on a faint pattern."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    y, x = np.mgrid[:SIZE, :SIZE]
    cy, cx, r = (rng.uniform(low, high, (count, 1, 1)) for low, high in ((4, 12), (4, 12), (2, 5)))
    spot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / r**2)
    images = 30 + 40 * rng.random((count, 3, SIZE // 2, SIZE // 2)).repeat(2, 2).repeat(2, 3)
    images[np.arange(count), labels] += 180 * spot
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def reference():
    return Reference("blobs", CLASSES, "0123456789abcdef", *blobs(300, 1), *blobs(120, 2))


@pytest.fixture(scope="module")
def trained(reference, tmp_path_factory):
    return open_network(reference, tmp_path_factory.mktemp("cache"), 40)


@pytest.fixture
def rate(reference, trained, tmp_path):
    """(images, labels or None) -> result."""

    def rate_(images, labels=None):
        arrays = [images.permute(0, 2, 3, 1).numpy(), *([] if labels is None else [labels.numpy()])]
        np.savez(tmp_path / "images.npz", *arrays)
        return score(open_samples(tmp_path), reference, trained)

    return rate_


def frechet_of(result):
    return next(v["value"] for k, v in result["scores"].items() if k.startswith("toy_frechet"))


def test_new_images_of_the_same_kind_score_like_the_held_out(rate, trained):
    images, labels = blobs(120, 3)
    result = rate(images, labels)
    name = f"toy_frechet/blobs/{trained.sha256[:8]}"
    entry = result["scores"][name]
    assert entry["unit"] == "x1e-3 of reference variance" and 0.3 < entry["value"] / entry["heldout"] < 3
    assert result["scores"]["memorisation_ratio"]["value"] == pytest.approx(1, abs=0.1)
    assert result["scores"]["copy_rate"]["value"] < 0.05 and result["scores"]["copy_rate"]["heldout"] < 0.05
    assert result["scores"]["class_agreement"]["value"] > 0.9 and trained.accuracy > 0.9
    assert [row["samples"] for row in result["classes"]] == labels.bincount().tolist()
    assert set(result["warnings"]) == {"few_samples", "few_reference_images"}


def test_damage_raises_the_distance(rate):
    images, labels = blobs(200, 3)
    good = frechet_of(rate(images))
    noisy = (images + 40 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).byte()
    assert frechet_of(rate(noisy)) > 2 * good
    assert frechet_of(rate(images[labels != 2])) > 2 * good, "a missing class"
    wrong = rate(images, (labels + 1) % 3)["scores"]["class_agreement"]["value"]
    assert wrong < 0.1, "right images under wrong labels"


def test_the_training_images_score_well_and_are_called_copies(rate, reference):
    result = rate(reference.train[:150], reference.train_labels[:150])
    assert frechet_of(result) < 15
    assert result["scores"]["memorisation_ratio"]["value"] < 0.01
    assert result["scores"]["copy_rate"]["value"] == 1
    assert result["warnings"]["identical_to_reference"].startswith("150 of 150")


@pytest.mark.parametrize("noise", [0, 2, 6])
@pytest.mark.parametrize("mirrored", [False, True])
def test_copy_rule_finds_noisy_and_mirrored_copies_and_no_new_images(reference, noise, mirrored):
    nearest = NearestTrain(reference.train)
    rng = torch.Generator().manual_seed(0)
    copies = reference.train[:100] + noise * torch.randn(100, 3, SIZE, SIZE, generator=rng)
    copies = copies.round().clamp(0, 255).byte()
    assert nearest(copies.flip(3) if mirrored else copies).copy_rate == 1
    assert nearest(reference.heldout).copy_rate < 0.05


def test_nearest_distances_are_those_of_the_definition(reference):
    got = NearestTrain(reference.train)(reference.heldout[:20], chunk=7)
    both = torch.cat([reference.train, reference.train.flip(3)]).double() / 127.5 - 1
    query = reference.heldout[:20].double() / 127.5 - 1
    expected = (query[:, None] - both).square().flatten(2).mean(2).sqrt().min(1).values
    torch.testing.assert_close(got.distance.double(), expected, rtol=1e-4, atol=1e-4)


def test_guards_name_what_is_odd(rate, reference):
    images, labels = blobs(60, 4)
    images[:20] = 77
    images[20:30] = images[20:30, :1]
    order = labels.argsort()
    assert set(rate(images, labels[order])["warnings"]) - {"class_proportions"} == {  # 60 random labels: by chance
        "few_samples",
        "few_reference_images",
        "class_sorted",
        "constant_images",
        "grey_images",
        "duplicates",
    }
    assert rate(images)["warnings"]["duplicates"].startswith("19 of 60")
    mirrored = rate(reference.train[:5].flip(3))["warnings"]
    assert mirrored["identical_to_reference"].startswith("5 of 5")
    assert not is_sorted(np.zeros(10)) and not is_sorted(np.arange(30) % 3) and not is_sorted(None)


def test_same_seed_same_weights_whatever_the_threads_and_the_global_seed(reference):
    args = reference.train, reference.train_labels, 3, 20
    before = torch.get_rng_state()
    first = weights_hash(train(*args))
    assert torch.equal(torch.get_rng_state(), before), "training moved the global random state"
    torch.manual_seed(123)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    second = weights_hash(train(*args))
    torch.set_num_threads(threads)
    assert first == second and first != weights_hash(train(*args, seed=1))


def test_network_is_kept_and_damage_is_noticed(reference, tmp_path, monkeypatch):
    first = open_network(reference, tmp_path, 20)
    assert first.path.name == f"blobs-01234567-16px-recipe1-20steps-{first.sha256[:8]}.safetensors"
    monkeypatch.setattr("pointillist.evaluation.offline.classifier.train", None)  # would fail if it were called
    again = open_network(reference, tmp_path, 20)
    assert (again.sha256, again.accuracy) == (first.sha256, first.accuracy)
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"is damaged .*delete it to retrain"):
        open_network(reference, tmp_path, 20)
    first.path.write_bytes(whole[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(ValueError, match="not those of its name"):
        open_network(reference, tmp_path, 20)
    first.path.write_bytes(whole)
    first.path.with_name(first.path.name.replace(first.sha256[:8], "00000000")).write_bytes(whole)
    with pytest.raises(ValueError, match="scores of two networks differ, keep one"):
        open_network(reference, tmp_path, 20)


def test_what_cannot_be_scored(reference, tmp_path):
    with pytest.raises(ValueError, match="2 or more classes"):
        train(reference.train, 0 * reference.train_labels, 3, 20)
    with pytest.raises(ValueError, match="network_steps=1 is too few"):
        open_network(reference, tmp_path, 1)
    images, _ = blobs(5, 0)
    np.savez(tmp_path / "images.npz", images.permute(0, 2, 3, 1).numpy(), np.array([0, 1, 2, 3, 0]))
    samples = open_samples(tmp_path)
    with pytest.raises(ValueError, match=r"labels of .* are 0..3 but reference blobs has classes 0..2"):
        check(samples, reference)
    with pytest.raises(ValueError, match="needs 2"):
        check(replace(samples, count=1), reference)


def test_features_of_large_images_are_cheap_and_of_the_same_width():
    features, predicted = FeatureNetwork(3).eval().measure(torch.zeros(2, 3, 256, 256, dtype=torch.uint8))
    assert features.shape == (2, 32) and predicted.shape == (2,)


def words(value):
    """All keys of a nested dict."""
    if isinstance(value, dict):
        return [*value, *(w for v in value.values() for w in words(v))]
    return [w for v in value for w in words(v)] if isinstance(value, list) else []


def test_other_class_proportions_are_measured_and_named(rate, reference):
    images, labels = blobs(240, 7)
    mostly_red = torch.cat(
        [(labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:5, 0], (labels == 2).nonzero()[:5, 0]]
    )
    assert "class_proportions" not in rate(reference.heldout, reference.heldout_labels)["warnings"]
    result = rate(images[mostly_red], labels[mostly_red])
    cost = float(result["warnings"]["class_proportions"].split()[-1])
    assert cost == pytest.approx(frechet_of(result), rel=0.3), "good samples in odd proportions cost just that"


def test_names_cannot_be_mistaken_for_a_paper_score(rate):
    result = rate(*blobs(30, 5))
    text = lines(result)
    for word in [*words(result), *text]:
        assert not re.search(r"FID|\bIS\b|[Ii]nception", word), word
    assert "not comparable with any paper" in text[-1] and text[-1] == NOTE == result["note"]


def test_card_identifies_the_samples_not_their_container(rate, tmp_path):
    from PIL import Image

    images, labels = blobs(6, 6)
    result = rate(images, labels)
    assert result["samples"]["class_counts"] == labels.bincount(minlength=3).tolist()
    assert {"suite", "count", "label_policy", "pixels", "networks", "reference"} <= set(result["protocol"])
    folder = tmp_path / "png"
    folder.mkdir()
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{i}.png")
    from pointillist.evaluation.guards import Census

    census = Census.join([Census.of(batch) for batch in open_samples(folder).batches()])
    assert [census.content] == result["samples"]["sha256_of_pixels"]
    write_json(tmp_path / "new" / "scores.json", {"a": 1})
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["scores.json"]


def evaluate(*argv):
    """Run evaluate.py as a user does."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "evaluate.py", *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_evaluate_end_to_end(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images, arr_1=np.arange(24) % 9)
    done = evaluate(tmp_path, "scores=offline", "reference=emoji", f"cache={tmp_path / 'cache'}", "network_steps=20")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "scores.json").read_text())
    key = next(iter(result["scores"]))
    assert re.fullmatch(r"toy_frechet/emoji/[0-9a-f]{8}", key) and key in done.stdout
    assert result["scores"][key]["value"] > 5 * result["scores"][key]["heldout"], "noise is no emoji"
    assert result["scores"]["copy_rate"]["value"] == 0
    assert result["protocol"]["reference"]["name"] == "emoji"
    assert "few_samples" in result["warnings"] and "warning: few_samples" in done.stdout


def test_evaluate_errors_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / "none.npz")])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert f"error: no images at {tmp_path}/none.npz; give an .npz, .npy, .zip, .tar or a folder of images" in err
    assert err.count("\n") == 1
