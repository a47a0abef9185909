"""FID, sFID, FD-DINOv2 and FID-infinity, and what all score files have in common."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pointillist.configs.options import choices, describe, find
from pointillist.evaluation.features import BANK, CLASSES, MOMENTS
from pointillist.evaluation.frechet import Gaussian, Statistics, frechet
from pointillist.evaluation.scores import fd_dinov2, fid, fid_infinity, sfid
from pointillist.evaluation.scores.inception_score import ClassSums
from tests.random_features import draw

GOLDEN = Path(__file__).parent / "golden" / "metrics" / "cases.safetensors"
SCORES = choices("evaluation/scores")


def held(**layers):
    """Features that know the given layers and no others."""
    count = len(next(iter(layers.values())))
    return SimpleNamespace(
        count=count,
        bank=lambda layer: layers[layer],
        moments=lambda layer: Statistics.of(torch.from_numpy(np.array(layers[layer]))).gaussian,
        classes=lambda layer: ClassSums.of(torch.from_numpy(layers[layer]), np.zeros(count, np.int64), 1),
    )


@pytest.mark.parametrize(
    ("part", "layer", "case", "key"),
    [
        (fid, "pool", "features", "adm.fid"),
        (sfid, "spatial", "spatial", "adm.sfid"),
        (fd_dinov2, "cls", "features", "tf.fid"),
    ],
)
def test_frechet_scores_read_their_own_layer(part, layer, case, key):
    golden = load_file(GOLDEN)
    samples, reference = (held(**{layer: golden[f"{case}.{which}"].numpy()}) for which in ("sample", "ref"))
    (value,) = part.score(samples, reference, part.Options()).values()
    assert value.value == pytest.approx(float(golden[key]), rel=1e-6)
    (itself,) = part.score(samples, samples, part.Options()).values()
    assert itself.value < 1e-8


# ------------------------------------------------------------------------------------------------------- FID-infinity


def measure(bank, goal, **options):
    samples = held(pool=bank)
    reference = SimpleNamespace(count=None, moments=lambda layer: goal)
    return fid_infinity.score(samples, reference, fid_infinity.Options(**options))["fid_infinity"].value


def test_the_bias_of_a_finite_number_of_samples_is_taken_off():
    spread = torch.linspace(0.3, 1.5, 24, dtype=torch.float64)
    goal = Gaussian(torch.zeros(24, dtype=torch.float64), spread.square().diag())
    true = 24 * 0.05**2 + float((0.05 * spread).square().sum())
    errors, plain = [], []
    for seed in range(6):
        bank = (0.05 + 1.05 * spread.numpy() * draw(2000, 24, seed)).astype(np.float32)
        errors.append(measure(bank, goal, smallest=200) - true)
        plain.append(fid.score(held(pool=bank), held_goal(goal), fid.Options())["fid"].value - true)
    assert np.mean(plain) > 0.05 and abs(np.mean(errors)) < 0.2 * np.mean(plain)


def held_goal(goal):
    return SimpleNamespace(count=None, moments=lambda layer: goal)


def test_it_is_the_intercept_of_fids_of_subsets_of_one_permutation(tmp_path):
    np.save(tmp_path / "bank.npy", draw(700, 12, 3, 1.1).astype(np.float16))
    bank, goal = np.load(tmp_path / "bank.npy", mmap_mode="r"), held(pool=draw(900, 12, 4)).moments("pool")
    order, sizes = np.random.RandomState(5).permutation(700), np.linspace(100, 700, 4).astype(int)
    subsets = [torch.from_numpy(np.array(bank[order[:n]])).double() for n in sizes]
    fids = [frechet(goal, Statistics.of(x).gaussian).distance for x in subsets]
    expected = np.polyfit(1 / sizes, fids, 1)[1]
    assert measure(bank, goal, points=4, smallest=100, seed=5) == pytest.approx(expected, rel=1e-9)
    assert measure(bank, goal, points=4, smallest=100, seed=6) != pytest.approx(expected, rel=1e-6)


def test_a_file_sorted_by_class_is_no_trouble(monkeypatch):
    bank = draw(1500, 8, 6) + np.sort(draw(1500, 1, 7, 3.0), axis=0)  # the first samples are unlike the last
    goal = held(pool=bank).moments("pool")
    assert measure(bank, goal, smallest=300) < 0.1
    in_file_order = [
        frechet(goal, s.gaussian).distance for s in fid_infinity.growing(bank, np.arange(1500), [300, 1500])
    ]
    assert in_file_order[0] > 1


def test_sums_do_not_depend_on_how_many_rows_are_read(monkeypatch):
    bank, order, sizes = draw(300, 6, 8), np.random.RandomState(0).permutation(300), np.array([50, 51, 300])
    whole = list(fid_infinity.growing(bank, order, sizes))
    monkeypatch.setattr(fid_infinity, "ROWS", 17)
    for a, b in zip(whole, fid_infinity.growing(bank, order, sizes), strict=True):
        assert a.count == b.count
        torch.testing.assert_close(a.outer, b.outer, rtol=1e-12, atol=1e-10)


def test_fid_infinity_refusals():
    goal = held(pool=draw(100, 4)).moments("pool")
    with pytest.raises(ValueError, match="fid_infinity.smallest=5000 needs at least 5014 samples, got 5000"):
        fid_infinity.check(fid_infinity.Options(), 5000, None)
    with pytest.raises(ValueError, match="points=1 and smallest=5000 must be at least 2"):
        fid_infinity.check(fid_infinity.Options(points=1), 50000, None)
    broken = draw(100, 4)
    broken[7] = np.inf
    with pytest.raises(ValueError, match="1 of 50 feature vectors hold NaN|1 of 100"):
        measure(broken, goal, points=2, smallest=50)


# --------------------------------------------------------------------------------------------------- all score files


def features(count, seed):
    widths = {"pool": 12, "spatial": 9, "logits": 10, "cls": 8, "embedding": 8}
    return held(**{layer: draw(count, dim, seed + i) for i, (layer, dim) in enumerate(widths.items())})


SMALL = {"kid": {"subset_size": 20, "subsets": 3}, "fid_infinity": {"smallest": 20, "points": 3}}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_file_says_what_it_needs_and_gives(name):
    part = find("evaluation/scores", name)
    assert {*part.SAMPLES.values(), *part.REFERENCE.values()} <= {MOMENTS, CLASSES, BANK}
    options = part.Options(**SMALL.get(name, {}))
    reference = features(60, 50) if part.REFERENCE else None
    values = part.score(features(50, 0), reference, options)
    assert values.keys() == part.UNVERIFIED.keys()
    for value in values.values():
        assert isinstance(value.value, float) and np.isfinite(value.value)
        assert (value.width is None) == (value.how == "")
    for line in describe(part.Options):
        assert len(line.split("]", 1)[1].strip()) > 10, f"no help: {line}"


@pytest.mark.parametrize("name", SCORES)
def test_two_images_give_a_number_or_one_line(name):
    part = find("evaluation/scores", name)
    try:
        values = part.score(features(2, 0), features(60, 50), part.Options())
    except ValueError as e:
        assert name in {"precision_recall", "kid", "fid_infinity"} and "got 2" in str(e) and "\n" not in str(e)
    else:
        assert all(np.isfinite(value.value) for value in values.values())
