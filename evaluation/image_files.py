"""Image files in a folder, a zip or a tar: listed once, then read by number from any thread.

Images that lie in several folders beside each other have labels: the folders are the classes, numbered in the order in
which data=folder numbers them (2 before 10). The images are then in the order of the classes, so a score that reads
them in parts sees few classes at a time. Otherwise they are in the order of their names.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from pointillist.data.images import SUFFIXES
from pointillist.evaluation.arrays import DAMAGE

MODES = ("RGB", "L", "CMYK")  # what has one meaning as RGB; ImageNet has all three
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
LEFT = re.compile(r"scores.*\.(json|tmp|parts|lock|png)")  # what scoring leaves beside the images
HEAD = 64  # bytes that tell a file's kind


class Stamp(NamedTuple):
    """What tells that a file is another one, without reading it."""

    name: str
    size: int
    changed: int  # ns


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """N encoded images in their order.

    where      the folder or archive, for messages
    names      paths in it
    labels     int64 [N], or None where all lie in one folder
    identity   sha256 hex that changes when the files do
    read       (image number, bytes at most or -1 for all) -> the file's content; ValueError names a damaged one
    """

    where: Path
    names: list[str]
    labels: np.ndarray | None
    identity: str
    read: Callable[[int, int], bytes]

    def image(self, index: int) -> Image.Image:
        """Mode RGB. Raises ValueError that names the file."""
        return decode(self.read(index, -1), self.where / self.names[index])

    def kind(self, index: int) -> tuple[bool, tuple[int, int] | None]:
        """(whether image `index` is compressed with loss, its (height, width) where the first bytes tell)."""
        head = self.read(index, HEAD)
        lossy = is_lossy(self.read(index, -1) if head[12:16] == b"VP8X" else head)
        width, height = struct.unpack(">II", head[16:24]) if head.startswith(PNG) and len(head) >= 24 else (0, 0)
        return lossy, (height, width) if width else None


def identity(stamps: Iterable[Stamp]) -> str:
    """sha256 hex of names, byte sizes and times of change."""
    digest = hashlib.sha256()
    for stamp in stamps:
        digest.update("\0".join(map(str, stamp)).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def stamp_of(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(path.name, status.st_size, status.st_mtime_ns)


# ------------------------------------------------------------------------------------------------------------- listing


def list_folder(path: Path) -> ImageFiles:
    """The images in a folder and the folders in it. Raises ValueError when anything else lies there."""
    found: dict[str, Stamp] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(path / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir() and not passed_over(name):
                    folders.append(f"{name}/")
                elif entry.is_file():
                    status = entry.stat()
                    found[name] = Stamp(name, status.st_size, status.st_mtime_ns)
    names, labels = arranged(found, path)

    def read(index: int, nbytes: int) -> bytes:
        return _read(path / names[index], 0, nbytes)

    return ImageFiles(path, names, labels, identity(found[n] for n in names), read)


def list_zip(path: Path) -> ImageFiles:
    """The images in a zip. Raises ValueError for a damaged one and when it holds anything else."""
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as e:
        raise ValueError(f"{path} is damaged or was cut off ({e}); write it again") from None
    members = {i.filename: i for i in archive.infolist() if not i.is_dir()}
    names, labels = arranged(members, path)

    def read(index: int, nbytes: int) -> bytes:  # zipfile's own lock keeps the threads apart
        try:
            with archive.open(members[names[index]]) as stream:
                return stream.read(nbytes)
        except DAMAGE as e:
            raise ValueError(f"{names[index]} of {path} is damaged ({e}); write the zip again") from None

    return ImageFiles(path, names, labels, identity([stamp_of(path)]), read)


def list_tar(path: Path) -> ImageFiles:
    """The images in a plain tar. Raises ValueError for a compressed or short one and when it holds anything else."""
    from pointillist.data.shards import index_tar  # timm comes with it, which takes seconds

    members = {m.name: m for m in index_tar(path)}
    names, labels = arranged(members, path)

    def read(index: int, nbytes: int) -> bytes:
        member = members[names[index]]
        return _read(path, member.offset, member.size if nbytes < 0 else min(nbytes, member.size))

    return ImageFiles(path, names, labels, identity([stamp_of(path)]), read)


def _read(path: Path, start: int, nbytes: int) -> bytes:
    """Opened each time: the position is then no other thread's."""
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(nbytes)


def passed_over(name: str) -> bool:
    """Hidden files, what macOS adds to archives, and what scoring left beside the images."""
    parts = PurePosixPath(name).parts
    return any(p.startswith(".") or p == "__MACOSX" or LEFT.fullmatch(p) for p in parts)


def arranged(found: Iterable[str], where: Path) -> tuple[list[str], np.ndarray | None]:
    """(the images' names in order, labels int64 [N] or None). Raises ValueError that says what is in the way."""
    names = [name for name in found if not passed_over(name)]
    for name in sorted(names):
        if not name.lower().endswith(SUFFIXES):
            kinds = ", ".join(SUFFIXES)
            raise ValueError(f"{where / name} is not an image ({kinds}); keep only the images to score in {where}")
    if not names:
        raise ValueError(f"{where} holds no images ({', '.join(SUFFIXES)})")
    folders = {name: PurePosixPath(name).parent.parts for name in names}
    distinct = sorted(set(folders.values()))
    if len(distinct) == 1:
        return sorted(names), None
    if len({(len(folder), folder[:-1]) for folder in distinct}) > 1:
        a, b = (where.joinpath(*folder) for folder in (distinct[0], distinct[-1]))
        raise ValueError(
            f"{a} and {b} both hold images but do not lie beside each other; use one folder, or one a class"
        )
    from timm.utils.misc import natural_key  # the order of the classes in training

    number = {f: i for i, f in enumerate(sorted(distinct, key=lambda f: natural_key(f[-1])))}
    names.sort(key=lambda name: (number[folders[name]], name))
    return names, np.array([number[folders[name]] for name in names], np.int64)


# ------------------------------------------------------------------------------------------------------------ decoding


def decode(data: bytes, where: str | Path) -> Image.Image:
    """Bytes of an image file -> PIL image in mode RGB. Raises ValueError that names `where`.

    Transparency has no defined background in a score, and 16 bits no defined rounding: both are refused.
    """
    try:
        if data.startswith(PNG) and data[24:25] == b"\x10":
            raise ValueError("it has 16 bits a channel, expected 8")
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode not in MODES or "transparency" in image.info:
                raise ValueError(f"its mode is {image.mode}, expected RGB")
            return image.convert("RGB")
    # Pillow reports broken files through all of these (SyntaxError: a bad PNG chunk)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:
        reason = "not an image" if isinstance(e, Image.UnidentifiedImageError) else " ".join(str(e).split())
        raise ValueError(f"cannot read image {where} ({reason}); repair or remove it") from None


def is_lossy(data: bytes) -> bool:
    """Whether an image file is a JPEG or a lossy WebP, whatever its name says."""
    if data.startswith(JPEG):
        return True
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    chunk = 12
    while chunk + 8 <= len(data) and data[chunk : chunk + 4] not in (b"VP8 ", b"VP8L"):
        length = int.from_bytes(data[chunk + 4 : chunk + 8], "little")
        chunk += 8 + length + length % 2
    return data[chunk : chunk + 4] == b"VP8 "
