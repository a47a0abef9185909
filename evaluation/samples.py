"""Images to score: .npz (ADM's arr_0, arr_1), .npy, a folder, .zip or .tar of image files, a folder with images.npz.

Everything is read by image number, so that processes and resumed runs read their own part; nothing here knows what the
images are compared with. How files become square uint8 images of one size is said by `Pixels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pointillist.data.loader import num_threads
from pointillist.data.pixels import RANGES, Pixels, card, finish, fit, shown
from pointillist.evaluation.arrays import Array, open_npy, open_npz
from pointillist.evaluation.image_files import ImageFiles, identity, list_folder, list_tar, list_zip, stamp_of

BATCH = 64
SURVEYED = 4096  # files at a time: a pool keeps a kilobyte for each that waits
PROBED = 16  # images of a float array that are looked at when it is opened
FAR = 0.25  # of a range's width: floats this far beyond it were not meant for it, when they are
MANY = 0.05  # of all values
AS_THEY_ARE = Pixels()
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, eq=False)
class Samples:
    """N square uint8 images of one size, in file order.

    source    what was given, for messages
    folder    where a score file belongs: beside the images
    count     N
    size      height = width in pixels, as they are read
    labels    int64 [N], or None
    lossy     how many were stored with loss (JPEG, lossy WebP), by their content
    identity  sha256 hex of names, byte sizes and times of change: another one when the files are others
    card      JSON-ready: how they are stored and the policy that made their pixels
    read      ascending image numbers int64 [b] -> uint8 [b, 3, size, size]; thread-safe; ValueError for broken files
    stored    whether reading gives the same pixels in any batch; computed ones may differ by rounding
    """

    source: str
    folder: Path
    count: int
    size: int
    labels: np.ndarray | None
    lossy: int
    identity: str
    card: dict
    read: Callable[[np.ndarray], Tensor]
    stored: bool = True

    def batches(self) -> Iterator[Tensor]:
        """All images once, 64 at a time, uint8 [b, 3, size, size]."""
        for start in range(0, self.count, BATCH):
            yield self.read(np.arange(start, min(start + BATCH, self.count)))


def open_samples(path: str | Path, pixels: Pixels = AS_THEY_ARE) -> Samples:
    """Open images for scoring. FileNotFoundError or ValueError with one line that says what to do."""
    path = Path(path)
    pixels.check()
    if not path.exists():
        raise FileNotFoundError(f"no images at {path}; give an .npz, .npy, .zip, .tar or a folder of images")
    if path.is_dir():
        inside = path / "images.npz"
        return open_samples(inside, pixels) if inside.is_file() else _of_files(list_folder(path), path, pixels)
    if path.suffix == ".npz":
        return _of_array(*open_npz(path), pixels)
    if path.suffix == ".npy":
        return _of_array(open_npy(path), None, pixels)
    if path.suffix in (".zip", ".tar"):
        return _of_files((list_zip if path.suffix == ".zip" else list_tar)(path), path.parent, pixels)
    if path.name.endswith(COMPRESSED):
        raise ValueError(f"{path} is compressed as a whole, so no single image can be read; unpack it to a .tar")
    raise ValueError(f"{path} is neither .npz, .npy, .zip, .tar nor a folder")


def _of_array(array: Array, labels: np.ndarray | None, pixels: Pixels) -> Samples:
    count, height, width, _ = array.shape
    if pixels.resize == "none" and height != width:
        raise ValueError(f"{array.path} holds {height}x{width} images; {_how_to_fit(min(height, width))}")
    if array.is_float:
        _look_at_values(array, pixels.value_range)

    def read(index: np.ndarray) -> Tensor:
        _check_numbers(index, count)
        rows = array.rows(index)
        if not array.is_float:
            if (height, width) != (size, size):
                rows = _stack(lambda image: fit(Image.fromarray(image), pixels), rows, size)
            return torch.from_numpy(rows).permute(0, 3, 1, 2)
        _check_finite(array, rows, index)
        return finish(torch.from_numpy(rows.astype(np.float32)).permute(0, 3, 1, 2), pixels, pixels.value_range)

    size = pixels.size or height
    details = {"format": array.path.suffix[1:], "pixels": card(pixels, size, array.is_float)}
    if array.is_float:
        details |= {"dtype": str(array.dtype), "value_range": list(pixels.value_range)}
    stamp, folder = identity([stamp_of(array.path)]), array.path.parent
    return Samples(str(array.path), folder, count, size, labels, 0, stamp, details, read)


def _of_files(files: ImageFiles, folder: Path, pixels: Pixels) -> Samples:
    count = len(files.names)
    first = files.image(0)
    size = pixels.size or first.height
    lossy = _survey(files, first, pixels)

    def image(index: int) -> np.ndarray:
        picture = files.image(int(index))
        _check_size(files, int(index), (picture.height, picture.width), first, pixels)
        return fit(picture, pixels)

    def read(index: np.ndarray) -> Tensor:
        _check_numbers(index, count)
        return torch.from_numpy(_stack(image, index, size)).permute(0, 3, 1, 2)

    kind = "folder" if files.where.is_dir() else files.where.suffix[1:]
    details = {"format": kind, "pixels": card(pixels, size, quantized=False)}
    return Samples(str(files.where), folder, count, size, files.labels, lossy, files.identity, details, read)


def _stack(function: Callable[[Any], np.ndarray], items: Iterable, size: int) -> np.ndarray:
    """uint8 [b, size, size, 3] of a function for one image, in a few threads: Pillow works without the lock."""
    with ThreadPoolExecutor(num_threads()) as pool:
        images = list(pool.map(function, items))
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)


# -------------------------------------------------------------------------------------------------------------- checks


def _check_numbers(index: np.ndarray, count: int) -> None:
    assert index.ndim == 1 and (np.diff(index) > 0).all(), "image numbers are read in ascending order"
    assert not len(index) or (index[0] >= 0 and index[-1] < count), f"image numbers are 0..{count - 1}"


def _how_to_fit(size: int) -> str:
    return (
        "scores need square images of one size: pixels.resize=adm (or pil_bicubic, pil_lanczos, bicubic) "
        f"and size={size} would make them so"
    )


def _check_size(files: ImageFiles, index: int, found: tuple[int, int], first: Image.Image, pixels: Pixels) -> None:
    """ValueError when image `index`, `found` = (height, width), is not of the first one's size and nothing resizes."""
    expected = (first.height, first.width)
    if pixels.resize != "none" or (found == expected and first.height == first.width):
        return
    line = f"{files.where / files.names[index]} is {found[0]}x{found[1]}"
    if found != expected:
        line += f" but {files.names[0]} is {expected[0]}x{expected[1]}"
    raise ValueError(f"{line}; {_how_to_fit(min(*found, *expected))}")


def _survey(files: ImageFiles, first: Image.Image, pixels: Pixels) -> int:
    """How many files are lossy. Also finds PNGs of another size now, not after hours of features."""
    _check_size(files, 0, (first.height, first.width), first, pixels)
    lossy, count = 0, len(files.names)
    with ThreadPoolExecutor(num_threads()) as pool:
        for start in range(0, count, SURVEYED):
            part = range(start, min(start + SURVEYED, count))
            for i, (is_lossy, size) in zip(part, pool.map(files.kind, part), strict=True):
                lossy += is_lossy
                if size is not None:
                    _check_size(files, i, size, first, pixels)
    return lossy


def _look_at_values(array: Array, value_range: list[float]) -> None:
    """ValueError when the first images of a float array hold NaN or were certainly not meant in this range."""
    index = np.arange(min(PROBED, array.shape[0]))
    values = array.rows(index).astype(np.float32)
    _check_finite(array, values, index)
    if not _is_other_range(values, *value_range):
        return
    least, most = float(values.min()), float(values.max())
    fitting = [r for r in RANGES if r[0] - FAR <= least and most <= r[1] + FAR and not r[0] < 0 <= least]
    advice = f"say value_range={shown(fitting[0])}" if fitting else f"usual are {', '.join(map(shown, RANGES))}"
    raise ValueError(
        f"{array.name} of {array.path} is {array.dtype} with values {least:.3g}..{most:.3g}, which are not meant in "
        f"value_range={shown(value_range)}, a pixel option; {advice}"
    )


def _is_other_range(values: np.ndarray, lowest: float, highest: float) -> bool:
    """Whether floats certainly do not span lowest..highest; a decoder's overshoot is none of that."""
    least, most, far = float(values.min()), float(values.max()), FAR * (highest - lowest)
    if float(((values < lowest - far) | (values > highest + far)).mean()) > MANY:
        return True
    if (lowest, highest) == (-1, 1):
        return least == 0 < most <= 1  # black at 0: no set of images in [-1, 1] has its darkest value just there
    return highest - lowest > 100 and least < most <= 1


def _check_finite(array: Array, values: np.ndarray, index: np.ndarray) -> None:
    broken = ~np.isfinite(values).all((1, 2, 3))
    if broken.any():
        first = index[int(broken.argmax())]
        raise ValueError(f"{array.name} of {array.path} is {array.dtype} and holds NaN or infinity (image {first})")
