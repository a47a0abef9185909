"""Crops against independent computations."""

import numpy as np
import pytest
from PIL import Image

from pointillist.data.crops import Views, center_crop, in_force, num_views, random_crop, view


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def adm_center_crop(pil_image, image_size):
    """As published (guided-diffusion, image_datasets.py), in our words."""
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)
    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)
    arr = np.array(pil_image)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size]


@pytest.mark.parametrize(
    "size", [(72, 72), (500, 375), (375, 500), (64, 64), (31, 40), (33, 32), (129, 257), (20, 300)]
)
def test_view_0_is_adm_center_crop(size):
    image = noise(*size)
    for crop in ("center", "random", "ten", "jitter"):
        for seed in (0, 1):
            got = view(image, Views(32, crop), 0, seed, index=seed)
            assert got.dtype == np.uint8 and got.shape == (32, 32, 3)
            assert np.array_equal(got, adm_center_crop(image, 32))


def test_box_halving_is_exact_on_a_power_of_two():
    image = noise(64, 64)
    blocks = np.asarray(image).reshape(32, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(view(image, Views(32), 0, 0, 0) - blocks).max() <= 1  # Pillow rounds rows, then columns
    # Control: without antialiasing a fine grating becomes a flat lie.
    grating = Image.fromarray(np.tile(np.uint8([0, 255]), (64, 32))[..., None].repeat(3, 2))
    assert np.all(np.abs(view(grating, Views(32), 0, 0, 0).astype(int) - 128) <= 1)
    assert np.all(np.asarray(grating.resize((32, 32), Image.NEAREST)) == 255)


def test_center_flip():
    image, views = noise(50, 40), Views(32, "center")
    assert num_views(views) == 2 and num_views(Views(32, flip=False)) == 1
    assert np.array_equal(view(image, views, 1, 0, 0), view(image, views, 0, 0, 0)[:, ::-1])


def test_ten_crop():
    image, views = noise(80, 60), Views(32, "ten")
    big = np.asarray(center_crop(image, int(32 * 1.1)))  # 35 x 35
    corners = [big[:32, :32], big[:32, 3:], big[3:, :32], big[3:, 3:], big[2:34, 2:34]]
    assert num_views(views) == 11
    got = [view(image, views, k, 0, 0) for k in range(1, 11)]
    for k, expected in enumerate(corners):
        assert np.array_equal(got[k], expected)
        assert np.array_equal(got[k + 5], expected[:, ::-1])
    assert num_views(Views(32, "ten", flip=False)) == 6
    two = Views(32, "ten", zoom=[1.1, 1.5])
    assert num_views(two) == 21
    assert np.array_equal(view(image, two, 11, 0, 0), np.asarray(center_crop(image, 48))[:32, :32])


@pytest.mark.parametrize("crop", ["random", "jitter"])
def test_drawn_views_are_pure_and_differ(crop):
    image, views = noise(72, 72), Views(32, crop, count=9)
    assert num_views(views) == 9

    def all_of(seed, index):
        return [view(image, views, k, seed, index).tobytes() for k in range(9)]

    drawn = all_of(5, 7)
    assert drawn == all_of(5, 7)
    assert len(set(drawn)) >= 7  # few pixels to shift by: two may fall together
    assert drawn[0] == all_of(6, 7)[0] and drawn != all_of(6, 7) and drawn != all_of(5, 8)


def test_random_crop_range_and_flips():
    column = np.zeros((64, 64, 3), np.uint8)
    column[:, :32] = np.arange(64)[:, None, None] * 2  # top to bottom a ramp on the left half, black on the right
    image, views = Image.fromarray(column), Views(32, "random", count=400)
    cut = [view(image, views, k, 0, 0) for k in range(1, 400)]
    mirrored = np.mean([c[:, 0].sum() < c[:, -1].sum() for c in cut])
    assert 0.4 < mirrored < 0.6
    ramp = np.array([np.ptp(c[:, [0, -1], 0].max(1).astype(int)) for c in cut])  # rows seen: 64 / zoom
    assert 126 - 8 <= ramp.max() <= 126 and 126 * 32 / 40 - 8 <= ramp.min() <= 126 * 32 / 40 + 4
    assert all(
        c[:, 0].sum() >= c[:, -1].sum() for c in (view(image, Views(32, "random", False), k, 0, 0) for k in range(8))
    )


def test_random_crop_does_not_enlarge():
    image, views = noise(34, 34), Views(32, "random")
    sides = {side: np.asarray(center_crop(image, side))[:32, :32] for side in range(32, 41)}
    found = []
    for first in np.linspace(0, 0.999, 20):
        cut = np.asarray(random_crop(image, views, iter([first, 0.0, 0.0])))
        found += [side for side, corner in sides.items() if np.array_equal(cut, corner)]
    assert len(found) == 20 and set(found) == {32, 33, 34}  # never up to 40 = 1.25 x 32


def test_jitter_loses_nothing_and_pads_with_white():
    image, views = Image.new("RGB", (72, 72), "black"), Views(32, "jitter", count=200)
    for k in range(1, 200):
        got = view(image, views, k, 0, 0)
        inside = got[..., 0] == 0
        side = inside.any(0).sum()
        assert 26 <= side <= 32 and inside.any(1).sum() == side and inside.sum() == side**2
        assert np.all(got[~inside] == 255)


def test_refusals():
    for views, message in [
        (Views(0), "size=0"),
        (Views(32, "random", count=0), "count=0"),
        (Views(32, "random", zoom=[1.2]), "crop=random takes lowest,highest"),
        (Views(32, "ten", zoom=[0.9]), "crop=ten takes factors >= 1"),
        (Views(32, "jitter", zoom=[0.5, 1.2]), "crop=jitter takes"),
        (Views(32, zoom=[1.1]), "crop=center takes no zoom"),
    ]:
        with pytest.raises(ValueError, match=message):
            num_views(views)
            view(noise(40, 40), views, 1, 0, 0)
            in_force(views)


def test_equal_views_compare_equal():
    assert in_force(Views(32, count=3)) == in_force(Views(32, count=9))
    assert in_force(Views(32, "ten")) == in_force(Views(32, "ten", zoom=[1.1]))
    assert in_force(Views(32, "random", count=3)) != in_force(Views(32, "random", count=9))
