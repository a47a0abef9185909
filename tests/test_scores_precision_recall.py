"""Precision, recall, density and coverage: published evaluators, brute force, and what plain float32 gets wrong."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch_fidelity.metric_prc import prc_features_to_metric

from pointillist.evaluation import banks
from pointillist.evaluation.banks import AdmDistances, Distances, radii
from pointillist.evaluation.scores import density_coverage, precision_recall

GOLDEN = Path(__file__).parent / "golden" / "metrics" / "cases.safetensors"


def draw(count, dim, seed=0, scale=1.0, shift=0.0):
    return (shift + scale * np.random.RandomState(seed).standard_normal((count, dim))).astype(np.float32)


def held(bank):
    return SimpleNamespace(count=len(bank), bank=lambda layer: bank)


def measure(samples, reference, k=3, precision="fp32"):
    """(precision, recall)."""
    options = precision_recall.Options(k, precision)
    return tuple(v.value for v in precision_recall.score(held(samples), held(reference), options).values())


def crowd(samples, reference, k=5):
    """(density, coverage)."""
    options = density_coverage.Options(k)
    return tuple(v.value for v in density_coverage.score(held(samples), held(reference), options).values())


def exact(x, y):
    """float64 [N, M], differences first."""
    x, y = (torch.from_numpy(np.asarray(z, np.float64)) for z in (x, y))
    return torch.stack([(row - y).square().sum(1) for row in x])


def exact_radii(x, k):
    return exact(x, x).sort(dim=1).values[:, k]  # 0 is the vector itself


def brute_precision_recall(samples, reference, k):
    d = exact(reference, samples)
    precise = (d <= exact_radii(reference, k)[:, None]).any(0)
    recalled = (d <= exact_radii(samples, k)).any(1)
    return float(precise.double().mean()), float(recalled.double().mean())


def brute_density_coverage(samples, reference, k):
    d, r = exact(reference, samples), exact_radii(reference, k)
    return float((d < r[:, None]).double().sum(0).mean() / k), float((d.amin(1) < r).double().mean())


# ---------------------------------------------------------------------------------------------------------- published


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


def test_agrees_with_the_published_evaluators(golden):
    samples, reference = golden["features.sample"].numpy(), golden["features.ref"].numpy()
    expected = float(golden["adm.precision"]), float(golden["adm.recall"])
    assert measure(samples, reference) == pytest.approx(expected, rel=1e-6)
    assert measure(samples, reference) == pytest.approx((float(golden["tf.precision"]), float(golden["tf.recall"])))
    halves = float(golden["adm.precision_float16_emulated"]), float(golden["adm.recall_float16_emulated"])
    assert halves != expected
    assert measure(samples, reference, precision="adm_fp16") == pytest.approx(halves, rel=1e-6)
    assert measure(reference, samples) != pytest.approx(expected, rel=1e-2), "the order of the sets must matter"


@pytest.mark.parametrize("which", ["ref", "sample"])
def test_radii_are_those_published(golden, which):
    bank = golden[f"features.{which}"].numpy()
    published = golden[f"adm.radii_{which}"][:, 0].double()  # float32, not centred
    got, expected = radii(Distances(bank, bank), 3).double(), exact_radii(bank, 3)
    torch.testing.assert_close(got, published, rtol=1e-5, atol=0)
    assert (got / expected - 1).abs().max() < 0.5 * (published / expected - 1).abs().max()


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_torch_fidelity(k, low_memory):
    samples, reference = draw(400, 32, 1, 1.1, 0.1), draw(250, 32, 2)
    expected = prc_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(reference), prc_neighborhood=k, prc_batch_size=100,
        save_cpu_ram=low_memory, verbose=False,
    )  # fmt: skip
    assert measure(samples, reference, k) == pytest.approx((expected["precision"], expected["recall"]), rel=1e-6)


# -------------------------------------------------------------------------------------------------------- brute force


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_over_several_blocks_it_is_what_the_definition_says(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(Distances, "block", 100)
    sets = []
    for name, count, seed in (("samples", 303, 3), ("reference", 201, 4)):
        np.save(tmp_path / f"{name}.npy", draw(count, 8, seed, 1 + 0.1 * seed).astype(dtype))
        sets.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert measure(*sets) == pytest.approx(brute_precision_recall(*sets, 3), abs=1e-12)
    assert crowd(*sets) == pytest.approx(brute_density_coverage(*sets, 5), abs=1e-12)
    without_itself = brute_density_coverage(*sets, 4)  # what a radius that counts the vector itself would give
    assert crowd(*sets)[0] != pytest.approx(without_itself[0] * 4 / 5, rel=1e-2)


@pytest.mark.parametrize("kind", [Distances, AdmDistances])
def test_radii_do_not_depend_on_blocks_or_order(kind, monkeypatch):
    bank = draw(200, 24, 5).astype(np.float16)
    whole = radii(kind(bank, bank), 4)
    torch.testing.assert_close(whole.double(), exact_radii(bank, 4), rtol=2e-6 if kind is Distances else 2e-3, atol=0)
    order = np.random.RandomState(0).permutation(200)
    shuffled = bank[order]
    for block in (2, 25, 125):
        monkeypatch.setattr(kind, "block", block)
        torch.testing.assert_close(radii(kind(bank, bank), 4), whole, rtol=2e-6, atol=0)
        torch.testing.assert_close(radii(kind(shuffled, shuffled), 4), whole[order], rtol=2e-6, atol=0)


def test_the_order_of_images_does_not_matter():
    samples, reference = draw(300, 16, 6, 1.2), draw(200, 16, 7)
    mixed = [x[np.random.RandomState(1).permutation(len(x))] for x in (samples, reference)]
    assert measure(*mixed) == measure(samples, reference)
    assert crowd(*mixed) == crowd(samples, reference)


# ----------------------------------------------------------------------------------------------- ties, copies, offset


def test_a_set_fits_itself(monkeypatch):
    monkeypatch.setattr(Distances, "block", 250)
    x = draw(701, 300, 8, 1.0, 0.5)
    assert measure(x, x) == (1, 1)
    assert crowd(x, x) == (1, 1), "itself and k - 1 neighbours lie in a ball, the k-th on its surface"
    monkeypatch.setattr(banks, "ROUNDING", 0.0)
    assert crowd(x, x)[0] > 1, "the negative control has become exact: is the test still one?"


def test_copies_lie_on_the_surface_of_a_ball_without_extent():
    x = np.repeat(draw(20, 48, 9, 1.0, 3.0), 6, axis=0)  # each five times more: all radii are 0
    assert measure(x, x) == (1, 1)
    assert crowd(x, x) == (0, 0)
    assert crowd(x, x, k=6)[1] == 1, "the sixth neighbour is another vector"
    collapsed = np.repeat(x[:1], 50, axis=0)
    assert measure(collapsed, x) == (1, 6 / 120)
    assert measure(collapsed, collapsed) == (1, 1) and crowd(collapsed, collapsed) == (0, 0)


@pytest.mark.parametrize("precision", ["fp32", "adm_fp16"])
def test_the_surface_belongs_to_the_manifold(precision):
    x = np.repeat(np.random.RandomState(15).randint(0, 3, (30, 16)), 4, axis=0).astype(np.float32)  # exact in float16
    assert measure(x, x, precision=precision) == (1, 1)


def test_vectors_far_from_the_origin_keep_their_neighbours():
    samples, reference = draw(300, 256, 10, 1.05, 300.0), draw(300, 256, 11, 1.0, 300.0)  # as an untrained network has
    assert measure(samples, reference) == pytest.approx(brute_precision_recall(samples, reference, 3), abs=1e-12)
    assert crowd(samples, reference) == pytest.approx(brute_density_coverage(samples, reference, 5), abs=1e-12)
    x = torch.from_numpy(reference)
    squares = x.square().sum(1)
    plain = (squares[:, None] - 2 * x @ x.T + squares).clamp(min=0).sort(dim=1).values[:, 3].double()
    assert ((plain / exact_radii(reference, 3) - 1).abs() > 1e-3).any(), "not centred, float32 would be good enough"


# ------------------------------------------------------------------------------------------------------------ float16


def published_block(u, v):
    """guided-diffusion's pairwise distances: float16 if all are finite, else float32."""
    out = []
    for dtype in (np.float16, np.float32):
        a, b = u.astype(dtype), v.astype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            d = np.square(a).sum(1)[:, None] - 2 * (a @ b.T) + np.square(b).sum(1)
            out.append(np.maximum(d, dtype(0)).astype(np.float32))
    return out[0] if np.isfinite(out[0]).all() else out[1]


@pytest.mark.parametrize(
    ("scale", "overflows"), [(1.0, set()), (20.0, {(1, 1)}), (40.0, {(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)})]
)
def test_adm_distances_round_and_overflow_as_published(monkeypatch, scale, overflows):
    monkeypatch.setattr(AdmDistances, "adm_block", 100)
    monkeypatch.setattr(AdmDistances, "block", 50)
    x = draw(250, 64, 12)
    x[100:200] *= scale  # squared norms of 64 x scale^2, the largest float16 being 65504
    distances = AdmDistances(x, x)
    assert {place for place, full in distances.overflows.items() if full} == overflows
    for i, j, d in distances.blocks():
        big, other = (slice(s.start // 100 * 100, s.start // 100 * 100 + 100) for s in (i, j))
        expected = torch.from_numpy(published_block(x[big], x[other]))[i.start % 100 :, j.start % 100 :]
        torch.testing.assert_close(d, expected[: d.shape[0], : d.shape[1]], rtol=2e-6, atol=1e-4 * scale**2)
    assert radii(distances, 3).isfinite().all()


def test_adm_radii_use_rows_because_float16_sums_are_not_symmetric(monkeypatch):
    monkeypatch.setattr(AdmDistances, "block", 100)
    x = draw(300, 128, 14, 2.0)
    d = torch.from_numpy(published_block(x, x))
    assert not torch.equal(d, d.T)
    expected = [d.clone().fill_diagonal_(torch.inf).sort(dim=axis).values.select(axis, 2) for axis in (1, 0)]
    assert torch.equal(radii(AdmDistances(x, x), 3), expected[0])
    assert not torch.equal(expected[0], expected[1])


# ----------------------------------------------------------------------------------------------------------- refusals


def test_widths_are_standard_errors():
    value = precision_recall.score(held(draw(100, 8, 1, 2.0)), held(draw(50, 8)), precision_recall.Options())[
        "precision"
    ]
    assert value.width == pytest.approx((value.value * (1 - value.value) / 100) ** 0.5) and "100 images" in value.how


def test_too_few_images_and_nan_are_refused():
    few, enough, broken = draw(3, 8), draw(20, 8, 1), draw(20, 8, 2)
    broken[4, 1] = np.nan
    with pytest.raises(ValueError, match="precision_recall.k=3 needs at least 4 samples, got 3"):
        measure(few, enough)
    with pytest.raises(ValueError, match="precision_recall.k=3 needs at least 4 reference images, got 2"):
        measure(enough, few[:2])
    with pytest.raises(ValueError, match="density_coverage.k=5 needs at least 6 reference images, got 3"):
        crowd(enough, few)
    crowd(few, enough)  # samples have no balls
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        precision_recall.check(precision_recall.Options(k=0), 20, None)
    for both in ((broken, enough), (enough, broken)):
        for function in (measure, crowd):
            with pytest.raises(ValueError, match="1 of 20 feature vectors hold NaN"):
                function(*both)
