"""The Frechet distance: closed forms, scipy, published implementations, and what plain formulas get wrong."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pointillist.evaluation import frechet as formula
from pointillist.evaluation.frechet import Gaussian, Statistics

GOLDEN = Path(__file__).parent / "golden" / "metrics" / "cases.safetensors"


def draw(count, dim, seed=0, scale=1.0, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    return shift + scale * torch.rand(dim, generator=rng) * torch.randn(count, dim, generator=rng, dtype=torch.float64)


def factor_form(x, y):
    """Exact at any rank: nuclear norm of F1 F2^T, F = (X - m) / sqrt(n - 1)."""
    f, g = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + f.square().sum() + g.square().sum() - 2 * torch.linalg.svdvals(f @ g.T).sum())


def plain_form(x, y):
    """eigh -> eigvalsh with the rounding noise of zero eigenvalues left in."""
    s1, s2 = torch.cov(x.T), torch.cov(y.T)
    w, v = torch.linalg.eigh(s1)
    r = v * w.clamp(min=0).sqrt()
    root = torch.linalg.eigvalsh(r.T @ s2 @ r).clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + s1.trace() + s2.trace() - 2 * root)


def frechet(reference, sample):
    """Of two sets of sums."""
    return formula.frechet(reference.gaussian, sample.gaussian)


def test_commuting_gaussians_have_the_closed_form():
    a, b = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64), torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    q = torch.linalg.qr(draw(3, 3))[0]  # a common basis
    m = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    one, other = Gaussian(m, q.T @ a.diag() @ q, 1000), Gaussian(0 * m, q.T @ b.diag() @ q, 1000)
    got = formula.frechet(one, other)
    assert got.distance == pytest.approx(float(m.square().sum() + (a.sqrt() - b.sqrt()).square().sum()), abs=1e-10)
    assert got.means == pytest.approx(5.25) and got.trace_reference == pytest.approx(14)


def test_agrees_with_scipy_at_full_rank():
    from scipy.linalg import sqrtm

    x, y = draw(300, 24, 1), draw(250, 24, 2, 1.5, 0.3)
    s1, s2 = torch.cov(x.T), torch.cov(y.T)
    root = sqrtm((s1 @ s2).numpy()).trace().real
    expected = float((x.mean(0) - y.mean(0)).square().sum() + s1.trace() + s2.trace()) - 2 * root
    assert frechet(Statistics.of(x), Statistics.of(y)).raw == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("count", [5, 40, 41, 200])
def test_distance_to_itself_is_zero_at_any_rank(count):
    s = Statistics.of(draw(count, 40, 3, 2.0, 1.0))
    assert abs(frechet(s, s).raw) < 1e-8 and frechet(s, s).distance >= 0


@pytest.mark.parametrize("count", [401, 402, 410, 500, 4000])
def test_few_more_images_than_features_are_no_worse(count):
    """Eigenvalues alone, as at full rank, are off by their rounding's root."""
    s = Statistics.of(draw(count, 400, 3, 30.0, 1.0))
    assert abs(frechet(s, s).raw) < 1e-8
    r = s.gaussian.root
    squares = torch.linalg.eigvalsh(r.T @ s.gaussian.covariance @ r).clamp(min=0)
    error = abs(float(squares.sqrt().sum() - s.gaussian.covariance.trace()))
    assert count > 402 or error > 1e-8, "the control has become exact: is the test still one?"


@pytest.mark.parametrize(("n", "m"), [(30, 25), (30, 400), (400, 30)])
def test_below_full_rank_is_exact_where_the_plain_form_is_not(n, m):
    x, y = draw(n, 256, 4, 1.0, 0.5), draw(m, 256, 5, 1.2)
    exact = factor_form(x, y)
    assert abs(frechet(Statistics.of(x), Statistics.of(y)).raw - exact) < 1e-9
    assert abs(plain_form(x, y) - exact) > 1e-8, "the negative control has become exact: is the test still one?"


@pytest.mark.parametrize(
    ("kind", "key"), [("features", "adm.fid"), ("spatial", "adm.sfid"), ("rank_deficient", "adm.fid_rank_deficient")]
)
def test_agrees_with_the_published_evaluator(kind, key):
    golden = load_file(GOLDEN)  # guided-diffusion and torch-fidelity; the former's mean is float32
    got = frechet(Statistics.of(golden[f"{kind}.ref"]), Statistics.of(golden[f"{kind}.sample"])).distance
    assert got == pytest.approx(float(golden[key]), rel=1e-6)
    other = golden.get(key.replace("adm", "tf"))
    assert other is None or got == pytest.approx(float(other), rel=1e-6)


def test_merged_statistics_are_those_of_one_pass_in_any_order():
    x, y = draw(500, 16, 6, 3.0, 5.0), Statistics.of(draw(300, 16, 7))
    whole = Statistics.of(x)
    shuffled = x[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    for size in (1, 7, 64, 499):
        parts = [Statistics.of(part) for part in shuffled.split(size)]
        merged = sum(parts[1:], parts[0])
        assert merged.count == 500
        torch.testing.assert_close(merged.gaussian.covariance, whole.gaussian.covariance, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(merged.gaussian.mean, whole.gaussian.mean, rtol=1e-10, atol=1e-10)
        assert frechet(y, merged).raw == pytest.approx(frechet(y, whole).raw, abs=1e-10)
    torch.testing.assert_close(whole.gaussian.covariance, torch.cov(x.T), rtol=1e-12, atol=1e-12)


def test_nan_and_single_images_are_refused():
    x = draw(10, 4)
    x[3, 2] = float("nan")
    with pytest.raises(ValueError, match="1 of 10 feature vectors hold NaN"):
        Statistics.of(x)
    one = Statistics.of(draw(1, 4))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        frechet(one, one)
