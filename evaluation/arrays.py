"""Images in numpy files, .npz (ADM's arr_0 and arr_1) and .npy, read by image number without loading the file.

50,000 images of 256 pixels are 9.8 GB. What is stored plainly is read at its place in the file: memory-mapping would do
too, but its pages count as the process's memory, and a file cut short under it is a crash instead of a message.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

STATISTICS = {"mu", "sigma", "mu_s", "sigma_s"}
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # RuntimeError: encrypted, or an unknown compression
LOCAL_HEADER = 30  # bytes of a zip member's header before its name


@dataclass(frozen=True, eq=False)
class Array:
    """N images of one size in a numpy file.

    path, name  where they lie, for messages
    shape       (N, H, W, 3)
    dtype       uint8, float16, float32 or float64
    rows        ascending image numbers int64 [b] -> [b, H, W, 3]; ValueError when the file is damaged; thread-safe
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[np.ndarray], np.ndarray]

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"


def open_npy(path: Path) -> Array:
    """Raises ValueError for anything but uint8 or float images [N, H, W, 3] that are all there."""
    with path.open("rb") as stream:
        shape, dtype = _header(stream, path)
        start = stream.tell()
    _check(path, "the array", shape, dtype, path.stat().st_size - start)
    return Array(path, "the array", shape, dtype, _Plain(path, start, shape, dtype).rows)


def open_npz(path: Path) -> tuple[Array, np.ndarray | None]:
    """(arr_0, labels arr_1 int64 [N] or None); other keys are passed over. Raises ValueError."""
    labels = _read_labels(path)
    with _member(path, "arr_0") as (stream, info):
        shape, dtype = _header(stream, path)
        start = stream.tell()
    _check(path, "arr_0", shape, dtype, info.file_size - start)
    if labels is not None and len(labels) != shape[0]:
        raise ValueError(f"{path} holds {shape[0]} images but {len(labels)} labels")
    if info.compress_type == zipfile.ZIP_STORED:
        member = _place(path, info)
        rows = _Plain(path, member + start, shape, dtype, _Checksum(path, member, start, info.CRC, shape[0])).rows
    else:
        rows = _Compressed(path, start, shape, dtype).rows
    return Array(path, "arr_0", shape, dtype, rows), labels


def _check(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, nbytes: int) -> None:
    """Whether these are images, and `nbytes` enough for them."""
    is_known = dtype == np.uint8 or (dtype.kind == "f" and dtype.itemsize <= 8)
    if not is_known or len(shape) != 4 or shape[3] != 3:
        hint = "; move the channels last" if len(shape) == 4 and shape[1] == 3 else ""
        raise ValueError(f"{name} of {path} is {dtype} {list(shape)}; expected uint8 or float [N, H, W, 3]{hint}")
    if 0 in shape:
        raise ValueError(f"{path} holds no images")
    whole = nbytes // (prod(shape[1:]) * dtype.itemsize)
    if whole < shape[0]:
        raise ValueError(f"{path} is cut off at image {whole} of {shape[0]}; write it again")


# ------------------------------------------------------------------------------------------------------------- reading


class _Plain:
    """Images that lie one behind the other from a byte of the file on."""

    def __init__(self, path: Path, start: int, shape: tuple, dtype: np.dtype, checksum: _Checksum | None = None):
        self.path, self.start, self.shape, self.dtype, self.checksum = path, start, shape, dtype, checksum

    def rows(self, index: np.ndarray) -> np.ndarray:
        with self.path.open("rb") as stream:  # opened each time: the position is then no other thread's
            images = _gather(stream, self.path, self.start, self.shape, self.dtype, index)
        if self.checksum is not None:
            self.checksum.follow(index, images)
        return images


class _Compressed:
    """Images in a compressed member: going forwards is one pass over the file, going back begins it anew."""

    def __init__(self, path: Path, start: int, shape: tuple, dtype: np.dtype):
        self.path, self.start, self.shape, self.dtype = path, start, shape, dtype
        self.stream: BinaryIO | None = None
        self.lock = Lock()

    def rows(self, index: np.ndarray) -> np.ndarray:
        with self.lock, _damage_is_a_user_error(self.path):
            if self.stream is None:
                self.stream = zipfile.ZipFile(self.path).open("arr_0.npy")  # noqa: SIM115 going on needs it open
            return _gather(self.stream, self.path, self.start, self.shape, self.dtype, index)


class _Checksum:
    """The CRC-32 of a plain zip member, followed while its images are read in order and compared at the last one.

    Reads in another order, such as one process's part, cannot be checked: they are passed over in silence.
    """

    def __init__(self, path: Path, member: int, header: int, expected: int, count: int):
        with path.open("rb") as stream:
            stream.seek(member)
            self.first = zlib.crc32(stream.read(header))
        self.path, self.expected, self.count = path, expected, count
        self.crc, self.next = self.first, 0
        self.lock = Lock()

    def follow(self, index: np.ndarray, images: np.ndarray) -> None:
        with self.lock:
            if not len(index) or index[-1] - index[0] != len(index) - 1:
                return
            if index[0] == 0:
                self.crc, self.next = self.first, 0
            if index[0] != self.next:
                return
            self.crc, self.next = zlib.crc32(images.data, self.crc), int(index[-1]) + 1
            if self.next == self.count and self.crc != self.expected:
                raise ValueError(f"{self.path} is damaged (wrong checksum of arr_0); write it again")


def _gather(stream: BinaryIO, path: Path, start: int, shape: tuple, dtype: np.dtype, index: np.ndarray) -> np.ndarray:
    """The images `index`, ascending; numbers that follow each other are one read."""
    images = np.empty((len(index), *shape[1:]), dtype)
    nbytes = prod(shape[1:]) * dtype.itemsize
    edges = np.flatnonzero(np.diff(index) != 1) + 1
    for first, last in zip([0, *edges], [*edges, len(index)], strict=True):
        if first < last:
            stream.seek(start + int(index[first]) * nbytes)
            if stream.readinto(images[first:last].reshape(-1).view(np.uint8)) != (last - first) * nbytes:
                raise ValueError(f"{path} is cut off at image {index[first]} of {shape[0]}; write it again")
    return images


# ------------------------------------------------------------------------------------------------------ what lies where


@contextmanager
def _damage_is_a_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as e:
        raise ValueError(f"{path} is damaged or was cut off ({e}); write it again") from None


@contextmanager
def _member(path: Path, name: str) -> Iterator[tuple[BinaryIO, zipfile.ZipInfo]]:
    """The stream of `name`.npy inside an .npz; a broken file becomes one ValueError."""
    with (
        _damage_is_a_user_error(path),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as stream,
    ):
        yield stream, archive.getinfo(f"{name}.npy")


def _place(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the content of a member begins; the lengths in its own header are not those of the directory's."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(LOCAL_HEADER)
    return info.header_offset + LOCAL_HEADER + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))


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
    with _damage_is_a_user_error(path), zipfile.ZipFile(path) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist()]
    if "arr_0" not in names:
        held = ", ".join(names) or "nothing"
        if STATISTICS & set(names):
            raise ValueError(f"{path} holds {held}: statistics of a reference, no images (arr_0); give it as reference")
        raise ValueError(f"{path} holds {held}, not arr_0; save with np.savez(path, arr_0=images, arr_1=labels)")
    if "arr_1" not in names:
        return None
    with _member(path, "arr_1") as (stream, _):
        shape, dtype = _header(stream, path)
        if len(shape) != 1 or dtype.kind not in "iu":
            raise ValueError(f"labels arr_1 of {path} are {dtype} {list(shape)}; expected int64 [N]")
        data = stream.read()
    if len(data) != shape[0] * dtype.itemsize:
        raise ValueError(f"{path} is cut off inside arr_1; write it again")
    return np.frombuffer(data, dtype).astype(np.int64)
