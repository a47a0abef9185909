"""KID and CMMD: torch-fidelity, definitions, and the limits of their estimates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch_fidelity.metric_kid import kid_features_to_metric

from pointillist.evaluation.scores import cmmd, kid
from tests.random_features import draw, held

GOLDEN = Path(__file__).parent / "golden" / "metrics" / "cases.safetensors"


def measure_kid(samples, reference, **options):
    return kid.score(held(samples), held(reference), kid.Options(**options))["kid"]


def measure_cmmd(samples, reference):
    return cmmd.score(held(samples), held(reference), cmmd.Options())["cmmd"].value


# ---------------------------------------------------------------------------------------------------------------- KID


def test_kid_agrees_with_the_published_evaluator():
    golden = load_file(GOLDEN)
    samples, reference = golden["features.sample"].numpy(), golden["features.ref"].numpy()
    got = measure_kid(samples, reference, subsets=50, subset_size=100)
    assert got.value == pytest.approx(float(golden["tf.kid.mean"]), rel=1e-6)
    assert got.width == pytest.approx(float(golden["tf.kid.std"]), rel=1e-6)
    first = kid.subset_pairs(kid.Options(subsets=50, subset_size=100), 400, 500)[0]
    assert np.array_equal(first[0], golden["tf.kid.first_subset_sample"])
    assert np.array_equal(first[1], golden["tf.kid.first_subset_ref"])
    swapped = measure_kid(reference, samples, subsets=50, subset_size=100)
    assert swapped.value != pytest.approx(got.value, rel=1e-3), "the samples must be drawn first"


def test_kid_agrees_with_torch_fidelity_on_a_memory_mapped_bank(tmp_path):
    np.save(tmp_path / "bank.npy", draw(300, 48, 1, 1.2, 0.2).astype(np.float16))
    samples, reference = np.load(tmp_path / "bank.npy", mmap_mode="r"), draw(200, 48, 2)
    expected = kid_features_to_metric(
        torch.from_numpy(np.array(samples, np.float64)), torch.from_numpy(reference).double(), kid_subsets=20,
        kid_subset_size=64, rng_seed=7, verbose=False,
    )  # fmt: skip
    got = measure_kid(samples, reference, subsets=20, subset_size=64, seed=7)
    assert got.value == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-12)
    assert got.width == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-12)


def test_kid_is_unbiased_and_may_fall_below_zero():
    near = [measure_kid(draw(200, 16, 2 * s), draw(200, 16, 2 * s + 1), subsets=1, subset_size=200) for s in range(60)]
    values = np.array([v.value for v in near])
    assert (values < 0).any() and abs(values.mean()) < 3 * values.std() / 60**0.5
    biased = values + 2 * 3.0**3 / 200  # about what the diagonals would add
    assert abs(biased.mean()) > 3 * values.std() / 60**0.5


def test_kid_over_whole_sets_is_the_definition_in_any_order():
    x, y = draw(40, 6, 3), draw(40, 6, 4, 1.0, 0.5)

    def mean_kernel(a, b, skip):
        terms = [
            (float(np.dot(u, v)) / 6 + 1) ** 3 for i, u in enumerate(a) for j, v in enumerate(b) if i != j or not skip
        ]
        return np.mean(terms)

    a, b = x.astype(np.float64), y.astype(np.float64)
    expected = mean_kernel(a, a, True) + mean_kernel(b, b, True) - 2 * mean_kernel(a, b, False)
    assert measure_kid(x, y, subsets=1, subset_size=40).value == pytest.approx(expected, rel=1e-12)
    assert measure_kid(x[::-1], y, subsets=1, subset_size=40).value == pytest.approx(expected, rel=1e-12)
    itself = measure_kid(x, x, subsets=1, subset_size=40).value
    assert itself == pytest.approx(2 * (mean_kernel(a, a, True) - mean_kernel(a, a, False)), rel=1e-9) and itself < 0


def test_kid_refusals():
    x, broken = draw(30, 4), draw(30, 4)
    broken[:] = np.nan
    with pytest.raises(ValueError, match="kid.subset_size=1000 needs at least 1000 samples, got 2"):
        kid.check(kid.Options(), 2, 5000)
    with pytest.raises(ValueError, match="kid.subset_size=1000 needs at least 1000 reference images, got 30"):
        kid.check(kid.Options(), 5000, 30)
    with pytest.raises(ValueError, match="subset_size=1 at least 2"):
        kid.check(kid.Options(subset_size=1), 5000, 30)
    with pytest.raises(ValueError, match="feature vectors hold NaN"):
        measure_kid(broken, x, subsets=2, subset_size=20)


# --------------------------------------------------------------------------------------------------------------- CMMD


def definition(samples, reference):
    """All at once, from differences."""
    x, y = (torch.from_numpy(np.asarray(z, np.float64)) for z in (samples, reference))
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)

    def mean(a, b):
        return (-(a[:, None] - b).square().sum(2) / 200).exp().mean()

    return float(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)))


def test_cmmd_is_the_definition():
    samples, reference = draw(150, 24, 5, 1.0, 0.2), draw(110, 24, 6)
    expected = definition(samples, reference)
    assert measure_cmmd(samples, reference) == pytest.approx(expected, rel=1e-9)
    assert measure_cmmd(reference, samples) == pytest.approx(expected, rel=1e-9)
    assert measure_cmmd(samples[::-1], reference) == pytest.approx(expected, rel=1e-9)
    assert measure_cmmd(7 * samples, reference) == pytest.approx(expected, rel=1e-5), "lengths must not matter"


def test_cmmd_of_a_set_with_itself_is_zero_which_float32_cannot_tell():
    x, y = draw(500, 64, 7), draw(500, 64, 8)
    assert abs(measure_cmmd(x, x)) < 1e-10 and abs(measure_cmmd(x, x.copy())) < 1e-10
    u, v = (torch.nn.functional.normalize(torch.from_numpy(z)) for z in (x, y))
    single = sum(s * ((a @ b.T - 1) / 100).exp().mean() for s, a, b in ((1, u, u), (1, v, v), (-2, u, v)))
    assert measure_cmmd(x, y) == pytest.approx(definition(x, y), rel=1e-9)
    assert 1000 * float(single) != pytest.approx(definition(x, y), rel=1e-4)


def test_cmmd_of_opposite_points_has_a_closed_form():
    x, y = np.array([[2.0, 0.0]], np.float32), np.array([[-1.0, 0.0]], np.float32)
    assert measure_cmmd(x, y) == pytest.approx(2000 * (1 - np.exp(-4 / 200)), rel=1e-12)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_cmmd_does_not_depend_on_blocks(block):
    x, y = draw(90, 12, 9), draw(70, 12, 10)
    for other in (x, y):
        u, v = (torch.nn.functional.normalize(torch.from_numpy(z).double()) for z in (x, other))
        expected = float((-(u[:, None] - v).square().sum(2) / 200).exp().mean())
        assert cmmd.mean_kernel(x, other, block) == pytest.approx(expected, rel=1e-13)


def test_cmmd_refusals():
    x, zero = draw(10, 4), draw(10, 4)
    zero[3] = 0
    with pytest.raises(ValueError, match="1 of 10 embeddings are all zero"):
        measure_cmmd(zero, x)
    zero[3] = np.inf
    with pytest.raises(ValueError, match="1 of 10 feature vectors hold NaN or infinity"):
        measure_cmmd(x, zero)
    with pytest.raises(ValueError, match="cmmd needs at least 1 samples, got 0"):
        measure_cmmd(x[:0], x)
