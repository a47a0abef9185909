"""Resize, crop and quantise policies against closed forms and independent computations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import functional as torchvision

from pointillist.configs.options import describe, load
from pointillist.data.crops import center_crop
from pointillist.data.images import to_float, to_uint8
from pointillist.data.pixels import Pixels, card, finish, fit
from pointillist.evaluation.samples import open_samples
from tests.containers import IMAGES, LABELS
from tests.containers import pixels as pixels_of

LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
FLOATS = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
TRUNCATE = Pixels(quantize="truncate")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


# ------------------------------------------------------------------------------------------------------------ quantise


def test_rounding_is_what_sample_py_writes():
    assert torch.equal(finish(FLOATS, Pixels()), to_uint8(FLOATS))
    ties = (torch.arange(256).view(256, 1) + 0.5) / 127.5 - 1 + torch.arange(-8, 9) * 2**-25  # where a last bit decides
    ties = ties.view(1, 1, 256, 17)
    assert torch.equal(finish(ties, Pixels()), to_uint8(ties))
    assert not torch.equal(to_uint8((ties + 1) - 1), to_uint8(ties)), "the control"


def test_truncation_is_adms_and_vars():
    adm = ((FLOATS + 1) * 127.5).clamp(0, 255).to(torch.uint8)  # guided-diffusion, image_sample.py
    var = FLOATS.add(1).mul(0.5).clamp(0, 1).mul(255).to(torch.uint8)  # VAR, sample with PyTorch's cast
    assert torch.equal(finish(FLOATS, TRUNCATE), adm) and torch.equal(adm, var)
    assert not torch.equal(adm, to_uint8(FLOATS))


def test_truncation_darkens_by_half_a_level():
    x = torch.rand(1, 3, 500, 500, generator=torch.Generator().manual_seed(1)) * 2 - 1
    exact = float(127.5 * x.double().mean() + 127.5)
    spread = 4 / math.sqrt(12 * x.numel())  # of a mean of uniform rounding errors
    assert float(finish(x, TRUNCATE).double().mean()) - exact == pytest.approx(-0.5, abs=spread)
    assert float(finish(x, Pixels()).double().mean()) - exact == pytest.approx(0, abs=spread)


def test_rounding_is_the_inverse_of_to_float_and_truncation_is_not():
    assert torch.equal(finish(to_float(LEVELS), Pixels()), LEVELS)
    assert torch.equal(finish(to_float(LEVELS).half(), Pixels()), LEVELS)
    lost = LEVELS[0, 0].int() - finish(to_float(LEVELS), TRUNCATE)[0, 0].int()
    assert int(lost.sum()) == int(lost.count_nonzero()) == 63
    for value_range in ((0, 1), (0, 255)):  # the two ranges whose formula has no addition keep them all
        floats = LEVELS.float() / 255 * value_range[1]
        assert torch.equal(finish(floats, TRUNCATE, value_range), LEVELS)
        assert torch.equal(finish(floats, Pixels(), value_range), LEVELS)


def test_bfloat16_is_quantised_in_float32():
    x = FLOATS.bfloat16()
    for pixels in (Pixels(), TRUNCATE, Pixels(size=16, resize="bicubic")):
        assert torch.equal(finish(x, pixels), finish(x.float(), pixels))
    wrong = (127.5 * x + 128).clamp(0, 255).to(torch.uint8)
    assert (wrong != finish(x, Pixels())).float().mean() > 0.2, "the control: what many repositories do"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_floats(value):
    x = FLOATS.clone()
    x[2, 1, 0, 0] = value
    with pytest.raises(ValueError, match="1 of 4 images hold NaN or infinity"):
        finish(x, Pixels(size=8, resize="bicubic"))


# -------------------------------------------------------------------------------------------------------------- resize


@pytest.mark.parametrize("quantize", ["round", "truncate"])
def test_bicubic_is_f_interpolate_on_floats_before_quantising(quantize):
    pixels = Pixels(size=16, resize="bicubic", quantize=quantize)
    resized = F.interpolate(FLOATS, size=(16, 16), mode="bicubic")  # LlamaGen, PAR: 384 -> 256
    assert torch.equal(finish(FLOATS, pixels), finish(resized, Pixels(quantize=quantize)))
    for other in (
        F.interpolate(FLOATS, size=(16, 16), mode="bicubic", antialias=True),
        F.interpolate(FLOATS.clamp(-1, 1), size=(16, 16), mode="bicubic"),  # clipped first
        F.interpolate(to_float(to_uint8(FLOATS)), size=(16, 16), mode="bicubic"),  # quantised first
    ):
        assert not torch.equal(finish(FLOATS, pixels), finish(other, Pixels(quantize=quantize)))


def test_bicubic_of_stored_images_goes_through_floats():
    image, pixels = noise(24, 24), Pixels(size=16, resize="bicubic")
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    expected = to_uint8(F.interpolate(to_float(levels), size=(16, 16), mode="bicubic"))
    assert torch.equal(torch.from_numpy(fit(image, pixels)).permute(2, 0, 1)[None], expected)


@pytest.mark.parametrize("shape", [(24, 24), (41, 24), (24, 41), (100, 17), (9, 12), (131, 64)])
@pytest.mark.parametrize("resize", ["pil_bicubic", "pil_lanczos"])
def test_pil_is_torchvisions_resize_and_center_crop(shape, resize):
    image = noise(*shape)
    mode = torchvision.InterpolationMode(resize.removeprefix("pil_"))
    expected = torchvision.center_crop(torchvision.resize(image, 16, mode), [16, 16])
    np.testing.assert_array_equal(fit(image, Pixels(size=16, resize=resize)), np.asarray(expected))


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (100, 40), (9, 12)])
def test_adm_is_the_crop_of_the_data(shape):
    image = noise(*shape)
    got = fit(image, Pixels(size=16, resize="adm"))
    np.testing.assert_array_equal(got, np.asarray(center_crop(image, 16)))
    if min(shape) >= 32:  # below, ADM's halving by boxes does not set in
        assert (got != fit(image, Pixels(size=16, resize="pil_bicubic"))).any()


@pytest.mark.parametrize("resize", ["adm", "pil_bicubic", "pil_lanczos"])
def test_other_resizers_work_on_what_was_quantised(resize):
    pixels = Pixels(size=16, resize=resize, quantize="truncate")
    got = finish(FLOATS, pixels)
    stored = finish(FLOATS, TRUNCATE).permute(0, 2, 3, 1).numpy()
    for image, expected in zip(got, stored, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), fit(Image.fromarray(expected), pixels))


@pytest.mark.parametrize("resize", ["adm", "pil_bicubic", "pil_lanczos", "bicubic"])
def test_images_of_the_right_size_are_left_alone(resize):
    """Also by truncation, which would darken what was uint8 already."""
    pixels = Pixels(size=16, resize=resize, quantize="truncate")
    np.testing.assert_array_equal(fit(noise(16, 16), pixels), np.asarray(noise(16, 16)))
    assert torch.equal(finish(FLOATS[..., :16, :16], pixels), finish(FLOATS[..., :16, :16], TRUNCATE))


@pytest.mark.parametrize("resize", ["adm", "pil_bicubic", "pil_lanczos", "bicubic"])
def test_every_source_is_resized_alike(tmp_path, resize):
    """A folder of mixed sizes, the same as arrays of one size each, floats of them, and any order of reading."""
    pixels = Pixels(size=16, resize=resize)
    images = [noise(24, 20, seed) for seed in range(3)] + [noise(16, 16, 3), noise(30, 31, 4)]
    (tmp_path / "png").mkdir()
    for i, image in enumerate(images):
        image.save(tmp_path / "png" / f"{i}.png")
    np.save(tmp_path / "first.npy", np.stack([np.asarray(image) for image in images[:3]]))
    np.save(tmp_path / "floats.npy", np.stack([np.asarray(image) for image in images[:3]]) / 127.5 - 1)
    folder = open_samples(tmp_path / "png", pixels)
    assert (folder.count, folder.size) == (5, 16)
    got = folder.read(np.arange(5))
    for index, image in enumerate(images):
        np.testing.assert_array_equal(got[index].permute(1, 2, 0), fit(image, pixels))
    assert torch.equal(folder.read(np.array([1, 4])), got[[1, 4]])
    for name in ("first.npy", "floats.npy"):
        assert torch.equal(open_samples(tmp_path / name, pixels).read(np.arange(3)), got[:3])
    with pytest.raises(ValueError, match=r"0.png is 20x24; scores need square images of one size: .*size=20"):
        open_samples(tmp_path / "png")


# --------------------------------------------------------------------------------------------------------- float arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_floats_that_were_bytes_become_them_again(tmp_path, dtype, bounds):
    low, high = bounds
    np.savez(tmp_path / "a.npz", (IMAGES / 255 * (high - low) + low).astype(dtype), LABELS)
    samples = open_samples(tmp_path / "a.npz", Pixels(value_range=list(bounds)))
    np.testing.assert_array_equal(pixels_of(samples), IMAGES)
    assert samples.card["pixels"]["quantize"] == "round" and samples.card["value_range"] == list(bounds)
    np.testing.assert_array_equal(samples.read(np.array([3, 60])).permute(0, 2, 3, 1), IMAGES[[3, 60]])


def test_a_decoders_overshoot_is_clipped(tmp_path):
    floats = np.random.default_rng(1).normal(0, 0.6, (20, 8, 8, 3)).astype(np.float32)  # a tenth of it beyond 1
    np.save(tmp_path / "a.npy", floats)
    got = pixels_of(open_samples(tmp_path / "a.npy"))
    np.testing.assert_array_equal(got, np.round(np.clip(floats, -1, 1) * 127.5 + 127.5).astype(np.uint8))
    assert (got == 255).any() and floats.max() > 1.5


@pytest.mark.parametrize(
    ("scale", "shift", "said", "advice"),
    [
        (1, 0, [-1, 1], r"values 0\.\.255, .*value_range=\[-1,1\], .*say value_range=\[0,255\]"),
        (1 / 255, 0, [-1, 1], r"say value_range=\[0,1\]"),
        (1 / 255, 0, [0, 255], r"say value_range=\[0,1\]"),
        (2 / 255, -1, [0, 1], r"say value_range=\[-1,1\]"),
        (2 / 255, -1, [0, 255], r"say value_range=\[-1,1\]"),
        (1, 0, [0, 1], r"say value_range=\[0,255\]"),
        (100, -9000, [0, 1], r"usual are \[-1,1\], \[0,1\], \[0,255\]"),
    ],
)
def test_floats_of_another_range(tmp_path, scale, shift, said, advice):
    np.save(tmp_path / "a.npy", IMAGES.astype(np.float32) * scale + shift)
    with pytest.raises(ValueError, match=advice):
        open_samples(tmp_path / "a.npy", Pixels(value_range=said))


@pytest.mark.parametrize("lowest", [0.003, 0.2])
def test_light_images_in_the_usual_range_are_no_error(tmp_path, lowest):
    """On white paper every value may be above 0; what was a byte is never exactly 0."""
    np.save(tmp_path / "a.npy", (lowest + (1 - lowest) * IMAGES / 255).astype(np.float32))
    assert open_samples(tmp_path / "a.npy").count == 70


def test_nan_is_found_where_it_is(tmp_path):
    floats = (IMAGES / 127.5 - 1).astype(np.float32)
    floats[50, 3, 3, 1] = np.inf
    np.save(tmp_path / "a.npy", floats)
    samples = open_samples(tmp_path / "a.npy")
    samples.read(np.arange(50))
    with pytest.raises(ValueError, match=r"float32 and holds NaN or infinity \(image 50\)"):
        samples.read(np.array([2, 50, 60]))


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 256}, r"size=256 does not say how.*add pixels.resize=adm\|pil_bicubic\|pil_lanczos\|bicubic"),
        ({"resize": "adm"}, "resize=adm needs a size; add pixels.size=256"),
        ({"size": -1, "resize": "adm"}, "size=-1 must be a number of pixels"),
        ({"resize": "lanczos", "size": 8}, "resize=lanczos is unknown; choose one of none, adm"),
        ({"quantize": "floor"}, "quantize=floor is unknown; choose one of round, truncate"),
        ({"value_range": [1.0, -1.0]}, r"value_range=\[1,-1\] must be \[lowest,highest\] .*\[0,1\], \[0,255\]"),
        ({"value_range": [1.0]}, r"value_range=\[1\] must be"),
        ({"value_range": [-math.inf, 1.0]}, r"value_range=\[-inf,1\] must be"),
    ],
)
def test_contradictions(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Pixels(**options).check()
    with pytest.raises(ValueError, match=message):
        open_samples(tmp_path, Pixels(**options))


def test_options_come_from_the_command_line_and_explain_themselves():
    assert load(Pixels, None, ["size=256", "resize=adm", "value_range=[0,1]"]) == Pixels(256, "adm", "round", [0, 1])
    assert all(len(line.split("]", 1)[1]) > 20 for line in describe(Pixels))
    with pytest.raises(ValueError, match="resize"):
        load(Pixels, None, ["resize=lanczos"])


def test_the_card_says_what_must_be_equal(tmp_path):
    assert card(TRUNCATE) == {"resize": "none", "size": 0, "quantize": "truncate"}
    assert card(TRUNCATE, 256, quantized=False)["quantize"] == "as stored", "nobody knows how an .npz was quantised"
    stored = card(Pixels(256, "bicubic"), quantized=False)
    assert stored == {"resize": "bicubic", "size": 256, "quantize": "round"}
    a, b = Pixels(value_range=[0, 1]), Pixels()
    assert card(a) == card(b), "how floats were stored is no property of the images"
