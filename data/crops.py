"""Views of an image: the plain centre crop (view 0, always) and the crops, shifts and flips that widen a data set.

`center` and `random` are ADM's crops (guided-diffusion image_datasets.py), `ten` is LlamaGen's (extract_codes_c2i.py:
centre crop to zoom x size, then four corners and the centre), `jitter` shrinks and shifts the whole picture on white.
Enlarging: view 0 enlarges only images smaller than `size`; `random` zooms in no further than an image's own pixels
reach; `jitter` as view 0; `ten` follows the publication and enlarges an image smaller than zoom x size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal

import numpy as np
from PIL import Image

from pointillist.configs.options import option
from pointillist.data.order import CROP, uniform

PUBLISHED_ZOOM = {"center": [1.0], "random": [1.0, 1.25], "ten": [1.1], "jitter": [0.8, 1.0]}


@dataclass
class Views:
    size: int = option(32, "side of the square images, in pixels")
    crop: Literal["center", "random", "ten", "jitter"] = option("center", "how views other than the plain one are cut")
    flip: bool = option(True, "views may be mirrored")
    count: int = option(8, "views an image for crop=random and crop=jitter, the plain one included")
    zoom: list[float] = option(
        [],
        "image side / size: random, jitter: lowest,highest; ten: one or more factors"
        " (empty = random 1,1.25; ten 1.1; jitter 0.8,1)",
    )


def num_views(views: Views) -> int:
    """V: views of one image, the plain view 0 included. Raises ValueError on options without meaning.

    center 1 (+1 flip) | random, jitter `count` | ten 1 + 5 a zoom (10 with flips)
    """
    if views.size < 1 or views.count < 1:
        raise ValueError(f"views.size={views.size} and views.count={views.count} must be at least 1")
    zoom, flips = zoom_of(views), 2 if views.flip else 1
    return {"center": flips, "ten": 1 + 5 * flips * len(zoom)}.get(views.crop, views.count)


def zoom_of(views: Views) -> list[float]:
    """The zoom factors in force; ValueError when they do not fit the crop."""
    zoom = list(views.zoom) or PUBLISHED_ZOOM[views.crop]
    fits, allowed = {
        "center": (not views.zoom, "no zoom at all: view 0 is the plain centre"),
        "random": (len(zoom) == 2 and 1 <= zoom[0] <= zoom[-1], "lowest,highest with 1 <= lowest <= highest"),
        "ten": (min(zoom) >= 1, "factors >= 1"),
        "jitter": (len(zoom) == 2 and 0 < zoom[0] <= zoom[-1] <= 1, "lowest,highest with 0 < lowest <= highest <= 1"),
    }[views.crop]
    if not fits:
        raise ValueError(f"views.zoom={zoom}: crop={views.crop} takes {allowed}; leave it out for the published range")
    return zoom


def in_force(views: Views) -> Views:
    """The same views with the zoom spelled out and what the crop ignores at its default: equal views compare equal."""
    counted = views.crop in ("random", "jitter")
    zoom = [] if views.crop == "center" else zoom_of(views)
    return replace(views, zoom=zoom, count=views.count if counted else Views.count)


def view(image: Image.Image, views: Views, k: int, seed: int, index: int) -> np.ndarray:
    """View k of image number `index`, uint8 [size, size, 3]; a pure function. View 0: plain centre, not mirrored."""
    assert 0 <= k < num_views(views), f"view {k} of {num_views(views)}"
    if k == 0:
        return np.asarray(center_crop(image, views.size))
    draws = iter(uniform(CROP, seed, index, k, np.arange(4)))
    if views.crop == "center":
        cut, mirrored = center_crop(image, views.size), True
    elif views.crop == "ten":
        cut, mirrored = ten_crop(image, views, k - 1)
    else:
        cut = (random_crop if views.crop == "random" else jitter)(image, views, draws)
        mirrored = views.flip and next(draws) < 0.5
    return np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut)


def resize(image: Image.Image, side: int) -> Image.Image:
    """Shorter side -> `side`: halved by BOX while at least twice too large, then BICUBIC (ADM's antialiasing)."""
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def square(image: Image.Image, left: int, top: int, size: int) -> Image.Image:
    return image.crop((left, top, left + size, top + size))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's `center_crop_arr`: the largest centred square, resized to size x size."""
    image = resize(image, size)
    return square(image, (image.width - size) // 2, (image.height - size) // 2, size)


def random_crop(image: Image.Image, views: Views, draws: Iterator[float]) -> Image.Image:
    """ADM's `random_crop_arr`: shorter side drawn in size x zoom, then a square anywhere."""
    low, high = (ceil(views.size * z) for z in zoom_of(views))
    reach = max(views.size, min(image.size))  # ADM would enlarge a small image here only to crop it
    low, high = min(low, reach), min(high, reach)
    image = resize(image, low + floor(next(draws) * (high - low + 1)))
    left = floor(next(draws) * (image.width - views.size + 1))
    top = floor(next(draws) * (image.height - views.size + 1))
    return square(image, left, top, views.size)


def ten_crop(image: Image.Image, views: Views, k: int) -> tuple[Image.Image, bool]:
    """Crop k and whether it is mirrored: corners (top left, top right, bottom left, bottom right), centre; mirrored
    likewise; then the next zoom."""
    per_zoom = 10 if views.flip else 5
    side = int(views.size * zoom_of(views)[k // per_zoom])
    mirrored, place = divmod(k % per_zoom, 5)
    far, middle = side - views.size, round((side - views.size) / 2)
    left, top = [(0, 0), (far, 0), (0, far), (far, far), (middle, middle)][place]
    return square(center_crop(image, side), left, top, views.size), bool(mirrored)


def jitter(image: Image.Image, views: Views, draws: Iterator[float]) -> Image.Image:
    """The plain view, shrunk to zoom x size and put anywhere on white: nothing is cut off."""
    low, high = zoom_of(views)
    low, high = ceil(views.size * low), floor(views.size * high)
    side = max(1, min(high, low + floor(next(draws) * (high - low + 1))))
    left, top = (floor(next(draws) * (views.size - side + 1)) for _ in range(2))
    canvas = Image.new("RGB", (views.size, views.size), "white")
    canvas.paste(center_crop(image, side), (left, top))
    return canvas
