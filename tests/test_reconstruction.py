"""Formulas of a tokenizer's scores: PSNR, SSIM, code frequencies, near codes and their perturbation."""

from __future__ import annotations

from math import inf, log, log10, sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter

from pointillist import CodeSpec
from pointillist.evaluation.reconstruction import perturb as perturb_file
from pointillist.evaluation.reconstruction.codes import count, entropy, statistics, unpack, usage
from pointillist.evaluation.reconstruction.perturb import Grid, neighbours, perturb, scaled
from pointillist.evaluation.reconstruction.psnr import psnr
from pointillist.evaluation.reconstruction.ssim import ssim
from pointillist.evaluation.reconstruction.summary import named, of_images, over_grid
from pointillist.sampling.noise import Noise
from pointillist.tokenizers.quantizers import FSQ
from pointillist.training.tasks.tokenizer import code_statistics
from tests.random_inception import pictures


def noisy(images: torch.Tensor, strength: float, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (images + strength * torch.randn(images.shape, generator=rng)).round().clamp(0, 255).byte()


def flat(level: int, size: int = 16) -> torch.Tensor:
    return torch.full((1, 3, size, size), level, dtype=torch.uint8)


# ---------------------------------------------------------------------------------------------------------------- PSNR


@pytest.mark.parametrize("shift", [1, 10, 255])
def test_psnr_of_a_constant_shift(shift):
    assert float(psnr(flat(0), flat(shift))) == pytest.approx(20 * log10(255 / shift), abs=1e-12)
    assert torch.equal(psnr(flat(0), flat(shift)), psnr(flat(shift), flat(0))), "uint8 differences do not wrap around"


def test_psnr_is_averaged_over_images_and_not_their_errors():
    images = torch.cat([flat(100), flat(100)])
    decoded = torch.cat([flat(101), flat(150)])
    entry = of_images(psnr(images, decoded).numpy())
    assert entry["value"] == pytest.approx(20 * log10(255) - 10 * log10(50))
    of_mean_error = 10 * log10(255**2 / ((1 + 50**2) / 2))
    assert entry["value"] - of_mean_error > 10, "the control: another definition"
    assert entry["width"] == pytest.approx(20 * log10(50) / 2), "half the difference of two is their standard error"


def test_images_that_come_back_exactly_are_counted_apart():
    images = torch.cat([flat(3), flat(9), flat(9)])
    values = psnr(images, torch.cat([flat(3), flat(10), flat(11)]))
    assert values[0] == inf
    entry = of_images(values.numpy())
    assert entry["infinite"] == 1 and entry["value"] == pytest.approx(20 * log10(255) - 10 * log10(2))
    assert of_images(np.array([inf, inf])) == {} and "width" not in of_images(np.array([1.0]))


# ---------------------------------------------------------------------------------------------------------------- SSIM


def by_scipy(x: np.ndarray, y: np.ndarray, smooth, border: int) -> float:
    """Of one channel, from the definition: means, variances and covariance under a window."""
    x, y = x.astype(float), y.astype(float)
    mx, my = smooth(x), smooth(y)
    vx, vy, cov = smooth((x - 0) * x) - mx * mx, smooth(y * y) - my * my, smooth(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    local = ((2 * mx * my + c1) / (mx**2 + my**2 + c1)) * ((2 * cov + c2) / (vx + vy + c2))
    inner = slice(border, -border) if border else slice(None)
    return float(local[inner, inner].mean())


def gaussian(z):
    return gaussian_filter(z, 1.5, truncate=3.5)  # 3.5 x 1.5: five pixels on each side


@pytest.mark.parametrize("size", [11, 16, 41])
def test_ssim_is_scipys_gaussian_window_without_the_border(size):
    images = pictures(3, size)
    decoded = noisy(images, 20)
    pairs = zip(images.numpy(), decoded.numpy(), strict=True)
    expected = [np.mean([by_scipy(a, b, gaussian, 5) for a, b in zip(x, y, strict=True)]) for x, y in pairs]
    np.testing.assert_allclose(ssim(images, decoded).numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(ssim(images, decoded), ssim(decoded, images), rtol=1e-12)


def test_other_conventions_of_ssim_are_other_numbers():
    images = pictures(4, 32)
    decoded = noisy(images, 20)
    found = float(ssim(images, decoded).mean())

    def other(smooth, border):
        pairs = zip(images.flatten(0, 1).numpy(), decoded.flatten(0, 1).numpy(), strict=True)
        return np.mean([by_scipy(x, y, smooth, border) for x, y in pairs])

    assert other(gaussian, 5) == pytest.approx(found, rel=1e-10)
    assert abs(other(lambda z: uniform_filter(z, 7), 3) - found) > 1e-3
    assert abs(other(gaussian, 0) - found) > 1e-4, "with a padded border"


def test_ssim_in_closed_form():
    images = pictures(3, 24)
    torch.testing.assert_close(ssim(images, images), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    c1 = (0.01 * 255) ** 2
    for a, b in [(0, 255), (100, 110), (7, 0)]:
        expected = (2 * a * b + c1) / (a**2 + b**2 + c1)  # no contrast: only the means are compared
        assert float(ssim(flat(a), flat(b))) == pytest.approx(expected, rel=1e-9)
    assert float(ssim(images, 255 - images).mean()) < 0.5
    with pytest.raises(ValueError, match="a window of 11 pixels, the images have 10"):
        ssim(pictures(1, 10), pictures(1, 10))


def test_ssim_falls_with_noise():
    images = pictures(4, 32)
    means = [float(ssim(images, noisy(images, strength)).mean()) for strength in (0, 5, 20, 80)]
    assert means == sorted(means, reverse=True) and means[-1] < 0.5


# --------------------------------------------------------------------------------------------------------------- codes


def test_entropy_in_closed_form():
    assert entropy(torch.full((512,), 7)) == pytest.approx(log(512))
    assert entropy(torch.tensor([0, 9, 0])) == 0
    assert entropy(torch.tensor([3, 1])) == pytest.approx(-(0.75 * log(0.75) + 0.25 * log(0.25)))
    assert usage(torch.tensor([0, 9, 1, 0])) == 0.5


def test_statistics_of_books_and_scales():
    spec = CodeSpec(((1, 1), (2, 2)), (8,), 3)
    bank = np.array([[0, 1, 2, 3, 4], [0, 4, 3, 2, 1]], np.float32)
    found = statistics(count(bank, spec), spec)
    assert found["code_usage"] == {"value": 5 / 8, "parts": {"scale 1x1": 1 / 8, "scale 2x2": 4 / 8}}
    assert found["code_entropy"]["parts"] == {"scale 1x1": 0, "scale 2x2": pytest.approx(2)}
    assert found["code_entropy_share"]["parts"]["scale 2x2"] == pytest.approx(2 / 3)
    assert found["code_perplexity"]["parts"]["scale 2x2"] == pytest.approx(4)
    spec = CodeSpec(((2,),), (8, 4), 2)
    bank = np.array([[0, 0, 1, 0], [2, 0, 3, 0]], np.float32)  # book 0 uses four codes evenly, book 1 one
    found = statistics(count(bank, spec), spec)
    assert found["code_usage"]["parts"] == {"book 0": 0.5, "book 1": 0.25} and found["code_usage"]["value"] == 0.375
    assert found["code_entropy"]["value"] == pytest.approx(1) and found["code_perplexity"]["value"] == pytest.approx(2)
    plain = statistics(count(bank[:, :2], CodeSpec(((2,),), (8,), 2)), CodeSpec(((2,),), (8,), 2))
    assert "parts" not in plain["code_usage"]


@pytest.mark.parametrize("vocab", [(32,), (16, 50)])
def test_statistics_are_those_of_training(vocab):
    spec = CodeSpec(((3, 3),), vocab, 4)
    rng = np.random.default_rng(0)
    bank = np.minimum(rng.geometric(0.2, (40, 9 * len(vocab))) - 1, 15).astype(np.float32)
    found, trained = statistics(count(bank, spec), spec), code_statistics(unpack(bank, spec), spec)
    assert found["code_usage"]["value"] == pytest.approx(trained["usage"])
    assert found["code_perplexity"]["value"] == pytest.approx(trained["perplexity"])


def test_a_bank_keeps_the_largest_codes():
    spec = CodeSpec(((2,),), (2**24,), 1)
    codes = torch.tensor([[2**24 - 1, 2**24 - 2]])
    assert torch.equal(unpack(codes.float().numpy(), spec), codes)
    assert int(torch.tensor(2**24 + 1).float()) == 2**24, "the control: beyond it codes would be confused"


# ---------------------------------------------------------------------------------------------------------- near codes


def brute_force(codebook: torch.Tensor, delta: int) -> list[list[int]]:
    """Sorted by squared distance, the code itself before all, equally far ones by number."""
    vectors = codebook.double().tolist()
    out = []
    for i, u in enumerate(vectors):
        far = [round(sum((a - b) ** 2 for a, b in zip(u, v, strict=True)), 9) for v in vectors]
        out.append(sorted(range(len(vectors)), key=lambda j: (j != i, far[j], j))[:delta])
    return out


@pytest.mark.parametrize("which", ["random", "levels", "doubled"])
def test_neighbours_are_those_of_the_definition(which, monkeypatch):
    torch.manual_seed(0)
    codebook = FSQ([5, 5, 3]).embed(torch.arange(75)) if which == "levels" else torch.randn(70, 3)
    if which == "doubled":
        codebook[35:] = codebook[:35]
    found = neighbours(codebook, 20)
    assert found.tolist() == brute_force(codebook, 20)
    assert torch.equal(found[:, 0], torch.arange(len(codebook), dtype=torch.int32)), "itself is among them, and first"
    monkeypatch.setattr(perturb_file, "BLOCK", 200)
    assert torch.equal(neighbours(codebook, 20), found), "whatever fits into memory"


def test_equally_far_neighbours_may_be_any():
    codebook = FSQ([7, 4, 3]).embed(torch.arange(84))  # thirds: equal distances differ in their last bits
    far = torch.cdist(codebook.double(), codebook.double())
    found, expected = (
        far.gather(1, torch.as_tensor(n).long()) for n in (neighbours(codebook, 20), brute_force(codebook, 20))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_too_many_neighbours_are_refused(monkeypatch):
    monkeypatch.setattr(perturb_file, "MOST", 100)
    with pytest.raises(ValueError, match="11 neighbours of 10 codes|20 neighbours of 20 codes are too many to keep"):
        neighbours(torch.randn(20, 2), 20)


NEAR = neighbours(torch.randn(64, 3, generator=torch.Generator().manual_seed(1)), 16)
CODES = torch.randint(0, 64, (400, 50), generator=torch.Generator().manual_seed(2))
IMAGES = torch.arange(400)


@pytest.mark.parametrize("alpha", [0.9, 0.5, 1.0])
@pytest.mark.parametrize("delta", [2, 16])
def test_a_share_of_the_codes_changes_within_the_neighbourhood(alpha, delta):
    changed = perturb(CODES, IMAGES, [NEAR], alpha, [delta], Noise(3))
    rank = (NEAR[CODES][..., :delta] == changed[..., None]).int()
    assert (rank.sum(-1) == 1).all(), "one of the nearest, itself included"
    expected, n = alpha * (1 - 1 / delta), CODES.numel()
    share, tolerance = float((changed != CODES).double().mean()), 4 * sqrt(expected * (1 - expected) / n)
    assert abs(share - expected) < tolerance
    assert abs(share - alpha) > tolerance, "the control: as it were if a code did not stand among its own nearest"
    counts = rank.sum((0, 1)).double()[1:]
    each = n * alpha / delta
    assert (counts - each).abs().max() < 4.5 * sqrt(each), "all of them equally often"


def test_nothing_changes_without_a_share_or_a_choice():
    assert torch.equal(perturb(CODES, IMAGES, [NEAR], 0.0, [16], Noise(0)), CODES)
    assert torch.equal(perturb(CODES, IMAGES, [NEAR], 1.0, [1], Noise(0)), CODES)


def test_draws_belong_to_the_image_and_not_to_its_batch():
    whole = perturb(CODES, IMAGES, [NEAR], 0.7, [9], Noise(0))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    parts = [perturb(CODES[i], IMAGES[i], [NEAR], 0.7, [9], Noise(0)) for i in order.split(33)]
    assert torch.equal(torch.cat(parts), whole[order])
    same = CODES[:1].expand(400, -1)
    assert len(perturb(same, IMAGES, [NEAR], 0.7, [9], Noise(0)).unique(dim=0)) == 400, "equal codes, other images"
    assert not torch.equal(whole, perturb(CODES, IMAGES, [NEAR], 0.7, [9], Noise(1)))


def test_books_are_perturbed_apart():
    small = neighbours(torch.randn(8, 2, generator=torch.Generator().manual_seed(4)), 4)
    codes = torch.stack([CODES, CODES % 8], -1)
    changed = perturb(codes, IMAGES, [NEAR, small], 1.0, [16, 4], Noise(0))
    moved = changed != codes
    assert (changed < torch.tensor([64, 8])).all()
    shares = moved.double().mean((0, 1))
    assert shares.tolist() == pytest.approx([15 / 16, 3 / 4], abs=0.015)
    assert float(moved.all(-1).double().mean()) == pytest.approx(float(shares.prod()), abs=0.01), "independently"


def test_a_grid_and_its_names():
    grid = Grid()
    assert len(grid.cells) == 15 and grid.named("pfid") == "pfid"
    assert Grid(grid.alphas[::-1], grid.deltas).named("pfid") == "pfid", "in any order"
    assert Grid((0.9,), (200,)).named("pfid") == "pfid@0.9x200"
    assert Grid((0.9, 0.5), (200, 360)).named("pfid") == "pfid@0.9,0.5x200,360"
    assert [scaled(200, v) for v in (4096, 16384, 1000, 20, 2)] == [200, 800, 49, 2, 2]
    assert grid.card((4096, 1000, 1000))["neighbours"] == {"1000": [49, 68, 88], "4096": [200, 280, 360]}
    with pytest.raises(ValueError, match=r"pfid_alphas must be different numbers in 0..1, got \[0.9,1.5\]"):
        Grid((0.9, 1.5)).check()
    for deltas in [(), (0,), (200, 200), (5000,)]:
        with pytest.raises(ValueError, match="pfid_deltas must be different numbers in 1..4096"):
            Grid(deltas=deltas).check()
    entry = over_grid({(0.9, 200): 3.0, (0.5, 200): 1.0})
    assert entry == {"value": 2.0, "parts": {"0.9x200": 3.0, "0.5x200": 1.0}}


@pytest.mark.parametrize("verified", [True, False])
def test_published_names_are_for_published_weights(verified):
    cards = {
        name: SimpleNamespace(card={"name": name, "sha256": "12345678" + "0" * 56, "verified": verified})
        for name in ("inception", "lpips_vgg")
    }
    names = [named(name, Grid((0.9,), (200,)), cards) for name in ("rfid", "pfid", "lpips_vgg", "psnr", "code_usage")]
    if verified:
        assert names == ["rfid", "pfid@0.9x200", "lpips_vgg", "psnr", "code_usage"]
    else:
        assert names == [
            "reconstruction_frechet(inception-12345678)",
            "perturbed_frechet@0.9x200(inception-12345678)",
            "perceptual_distance(lpips_vgg-12345678)",
            "psnr",
            "code_usage",
        ]
    assert named("perturbed_psnr", Grid(), {}) == "perturbed_psnr"
