"""MIND: recomputed independently, closed forms, sets of different sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pointillist.evaluation.scores import mind
from tests.random_features import draw, held

GOLDEN = Path(__file__).parent / "golden" / "metrics" / "cases.safetensors"


def measure(samples, reference, **options):
    return mind.score(held(samples), held(reference), mind.Options(**options))["mind"]


def published(samples, reference, directions=1000, seed=2020):
    """What arXiv 2605.06797 and torch-fidelity say, all at once; the same draws, in float64."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(np.array(samples)).double(), torch.from_numpy(np.array(reference)).double()
    n = min(len(x), len(y))
    x = x[torch.randperm(len(x), generator=g)[:n]] if len(x) > n else x
    y = y[torch.randperm(len(y), generator=g)[:n]] if len(y) > n else y
    u = torch.randn(directions, x.shape[1], generator=g)
    u = (u / u.norm(dim=1, keepdim=True)).double()
    each = ((x @ u.T).sort(0).values - (y @ u.T).sort(0).values).square().mean(0)
    return float(3 * x.shape[1] * each.mean()), each


@pytest.mark.parametrize(
    ("kind", "recorded"),  # metric_mind.py of toshas/torch-fidelity 5e211a9 on tests/golden/metrics; float32 there
    [("features", 7.00873875617981), ("spatial", 3.94046813249588), ("rank_deficient", 4.634246081113815)],
)
def test_equals_what_torch_fidelity_gave(kind, recorded):
    golden = load_file(GOLDEN)
    samples, reference = (golden[f"{kind}.{side}"].numpy() for side in ("sample", "ref"))
    assert len(samples) != len(reference), "a part of the larger set is drawn, too"
    assert measure(samples, reference).value == pytest.approx(recorded, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(120, 120), (300, 170), (90, 200)])
def test_recomputed_from_the_publication(n, m):
    samples, reference = draw(n, 20, 1, 1.2, 0.1), draw(m, 20, 2)
    value, each = published(samples, reference)
    got = measure(samples, reference)
    assert got.value == pytest.approx(value, rel=1e-6)
    assert got.width == pytest.approx(float(3 * 20 * each.std() / 1000**0.5), rel=1e-6)
    assert measure(samples, reference, seed=1).value != pytest.approx(value, rel=1e-6)


def test_one_dimension_has_no_choice_of_directions():
    x, y = draw(200, 1, 3), draw(200, 1, 4, 2.0, 1.0)
    expected = 3 * float(np.mean((np.sort(x[:, 0].astype(float)) - np.sort(y[:, 0].astype(float))) ** 2))
    got = measure(x, y, directions=10)
    assert got.value == pytest.approx(expected, rel=1e-12) and got.width < 1e-12
    unsorted = 3 * float(np.mean((x - y) ** 2))
    assert abs(unsorted / expected - 1) > 0.1, "without sorting it must be another number"


def test_a_shift_by_c_costs_three_times_its_square():
    x, c = draw(100, 64, 5), draw(1, 64, 6)
    got = measure(x, x + c, directions=4000)
    assert abs(got.value - 3 * float((c**2).sum())) < 4 * got.width


def test_itself_order_and_blocks(monkeypatch, tmp_path):
    np.save(tmp_path / "bank.npy", draw(150, 16, 7).astype(np.float16))
    x, y = np.load(tmp_path / "bank.npy", mmap_mode="r"), draw(150, 16, 8, 1.3)
    value = measure(x, y).value
    assert value == pytest.approx(published(x, y)[0], rel=1e-6) and value == pytest.approx(
        measure(y, x).value, rel=1e-12
    )
    assert measure(x, x).value == 0 and measure(x, x[::-1]).value == pytest.approx(0, abs=1e-20)
    assert measure(x[::-1], y).value == pytest.approx(value, rel=1e-12)
    for at_once, rows in ((1, 7), (150 * 13, 150), (10**9, 1)):
        monkeypatch.setattr(mind, "AT_ONCE", at_once)
        monkeypatch.setattr(mind, "ROWS", rows)
        assert measure(x, y).value == pytest.approx(value, rel=1e-12)


def test_refusals():
    x, broken = draw(10, 4), draw(10, 4)
    broken[2, 0] = np.nan
    assert measure(x[:2], x).value >= 0
    with pytest.raises(ValueError, match="1 of 10 feature vectors hold NaN"):
        measure(broken, x)
    with pytest.raises(ValueError, match="mind needs at least 1 reference images, got 0"):
        measure(x, x[:0])
    with pytest.raises(ValueError, match="directions=1 must be at least 2"):
        mind.check(mind.Options(directions=1), 10, 10)
