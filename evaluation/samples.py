"""Images to score: an .npz (ADM's arr_0, arr_1), an .npy, a folder of image files, or a run's folder with images.npz.

Everything is read in batches; nothing here knows what the images are compared with.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pointillist.data.images import SUFFIXES

LOSSY = (".jpg", ".jpeg", ".webp")
BATCH = 64


@dataclass(frozen=True, eq=False)
class Samples:
    """N square uint8 images of one size in file order.

    source   what was given, for messages
    folder   where a score file belongs: beside the images
    count    N
    size     height = width in pixels
    labels   int64 [N], or None
    lossy    whether the files were compressed with loss
    batches  () -> fresh iterator of uint8 [b, 3, size, size]; ValueError names what is broken
    """

    source: str
    folder: Path
    count: int
    size: int
    labels: np.ndarray | None
    lossy: bool
    batches: Callable[[], Iterator[Tensor]]


def open_samples(path: str | Path) -> Samples:
    """Open images for scoring. FileNotFoundError or ValueError with one line that says what to do."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no images at {path}; give an .npz, an .npy or a folder of images")
    if path.is_dir():
        return open_samples(path / "images.npz") if (path / "images.npz").is_file() else _open_folder(path)
    if path.suffix == ".npz":
        return _open_array(path, "arr_0", _read_labels(path))
    if path.suffix == ".npy":
        return _open_array(path, "the array", None)
    raise ValueError(f"{path} is neither .npz, .npy nor a folder")


# ----------------------------------------------------------------------------------------------------- .npz and .npy


@contextmanager
def _member(path: Path, name: str) -> Iterator[BinaryIO]:
    """The stream of `name`.npy inside an .npz, or of the .npy itself; broken files become one ValueError."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
                yield stream
    except (zipfile.BadZipFile, zlib.error, EOFError) as e:
        raise ValueError(f"{path} is damaged or was cut off ({e}); write it again") from None


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [n.removesuffix(".npy") for n in archive.namelist()]
    except zipfile.BadZipFile as e:
        raise ValueError(f"{path} is damaged or was cut off ({e}); write it again") from None


def _header(stream: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype; leaves the stream at the first value."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as e:
        raise ValueError(f"{path} holds no readable numpy array ({e})") from None
    if fortran and len(shape) > 1:
        raise ValueError(f"{path} is stored in Fortran order; save np.ascontiguousarray(images)")
    return shape, dtype


def _read_labels(path: Path) -> np.ndarray | None:
    """arr_1 of an .npz, int64 [N]; None when there is none. Also checks that arr_0 is there."""
    names = _names(path)
    if "arr_0" not in names:
        held = ", ".join(names) or "nothing"
        raise ValueError(f"{path} holds {held}, not arr_0; save with np.savez(path, arr_0=images, arr_1=labels)")
    if "arr_1" not in names:
        return None
    with _member(path, "arr_1") as stream:
        shape, dtype = _header(stream, path)
        if len(shape) != 1 or dtype.kind not in "iu":
            raise ValueError(f"labels arr_1 of {path} are {dtype} {list(shape)}; expected int64 [N]")
        data = stream.read()
    if len(data) != shape[0] * dtype.itemsize:
        raise ValueError(f"{path} is cut off inside arr_1; write it again")
    return np.frombuffer(data, dtype).astype(np.int64)


def _open_array(path: Path, name: str, labels: np.ndarray | None) -> Samples:
    with _member(path, name) as stream:
        shape, dtype = _header(stream, path)
        if dtype.kind == "f":
            first = np.frombuffer(stream.read(dtype.itemsize * 4096), dtype)
            nan = "holds NaN" if np.isnan(first).any() else f"starts with values {first.min():.3g}..{first.max():.3g}"
            raise ValueError(f"{name} of {path} is {dtype} and {nan}; round the images to uint8 0..255 first")
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        hint = "; move the channels last" if len(shape) == 4 and shape[1] == 3 else ""
        raise ValueError(f"{name} of {path} is {dtype} {list(shape)}; expected uint8 [N, H, W, 3]{hint}")
    count, height, width, _ = shape
    if count == 0 or height != width:
        what = "holds no images" if count == 0 else f"holds {height}x{width} images; scores need square ones"
        raise ValueError(f"{path} {what}")
    if labels is not None and len(labels) != count:
        raise ValueError(f"{path} holds {count} images but {len(labels)} labels")

    def batches() -> Iterator[Tensor]:
        with _member(path, name) as stream:
            _header(stream, path)
            for start in range(0, count, BATCH):
                rows = min(BATCH, count - start)
                data = bytearray(stream.read(rows * height * width * 3))
                if len(data) != rows * height * width * 3:
                    raise ValueError(f"{path} is cut off at image {start} of {count}; write it again")
                yield torch.frombuffer(data, dtype=torch.uint8).view(rows, height, width, 3).permute(0, 3, 1, 2)

    return Samples(str(path), path.parent, count, height, labels, False, batches)


# ------------------------------------------------------------------------------------------------------------ folders


def _open_folder(path: Path) -> Samples:
    """Image files in name order; hidden files and the score file of an earlier run are passed over."""
    files = sorted(f for f in path.iterdir() if not f.name.startswith(".") and f.name != "scores.json")
    for f in files:
        if f.suffix.lower() not in SUFFIXES:
            kind = "a folder" if f.is_dir() else f"not an image ({', '.join(SUFFIXES)})"
            raise ValueError(f"{f} is {kind}; keep only the images to score in {path}")
    if not files:
        raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)})")
    height, width = _pixels(files[0]).shape[:2]
    if height != width:
        raise ValueError(f"{files[0]} is {height}x{width}; scores need square images")

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(files), BATCH):
            images = []
            for f in files[start : start + BATCH]:
                images.append(_pixels(f))
                if images[-1].shape != (height, width, 3):
                    got = "x".join(map(str, images[-1].shape[:2]))
                    raise ValueError(f"{f} is {got} but {files[0].name} is {height}x{width}; use one size")
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    lossy = any(f.suffix.lower() in LOSSY for f in files)
    return Samples(str(path), path, len(files), height, None, lossy, batches)


def _pixels(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. Transparency has no defined background in a score, so it is refused, not composed."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in ("RGB", "L") or "transparency" in image.info:
                raise ValueError(f"its mode is {image.mode}, expected RGB")
            return np.array(image.convert("RGB"))
    # Pillow reports broken files through all of these (SyntaxError: a bad PNG chunk)
    except (OSError, SyntaxError, ValueError, EOFError) as e:
        reason = "not an image" if isinstance(e, Image.UnidentifiedImageError) else " ".join(str(e).split())
        raise ValueError(f"cannot read image {path} ({reason}); repair or remove it") from None
