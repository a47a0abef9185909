"""The noun of this room: `Images`, a set of decoded RGB images with labels; and the one uint8 <-> float conversion."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # torch takes longer to import than help to print
    from torch import Tensor

SPLITS = ("train", "heldout")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Images:
    """n images in a fixed order.

    name         shown in messages, "emoji/train"
    classes      names of the labels
    labels       int64 [n], in 0..len(classes)-1
    captions     n lines of text, or empty
    fingerprint  sha256 over the sorted (id, byte size) pairs: changed data is noticed
    read         index -> PIL image in mode RGB; safe to call from several threads; ValueError names a broken file
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    captions: tuple[str, ...]
    fingerprint: str
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Listing:
    """Encoded images found somewhere (a folder, tars, a Hugging Face dataset), before any is decoded.

    ids are unique and do not depend on where the data lie; labels are int64 [n]; read_bytes may be called from threads.
    """

    ids: list[str]
    sizes: list[int]
    labels: np.ndarray
    classes: tuple[str, ...]
    captions: tuple[str, ...]
    read_bytes: Callable[[int], bytes]

    def decode(self, index: int) -> Image.Image:
        return decode(self.read_bytes(index), self.ids[index])

    def images(self, name: str, rows: list[int]) -> Images:
        """The images of some rows, in that order."""
        return Images(
            name=name,
            classes=self.classes,
            labels=np.ascontiguousarray(self.labels[rows], dtype=np.int64),
            captions=tuple(self.captions[i] for i in rows) if self.captions else (),
            fingerprint=fingerprint((self.ids[i], self.sizes[i]) for i in rows),
            read=lambda index: self.decode(rows[index]),
        )


def fingerprint(files: Iterable[tuple[str, int]]) -> str:
    """sha256 hex of the sorted (id, byte size) pairs."""
    digest = hashlib.sha256()
    for name, size in sorted(files):
        digest.update(f"{name}\0{size}\n".encode())
    return digest.hexdigest()


def is_heldout(key: str, fraction: float) -> bool:
    """Whether the group `key` belongs to the held-out part: a hash, so the answer never depends on the other groups."""
    if not 0 <= fraction < 1:
        raise ValueError(f"heldout={fraction} must be a fraction in 0 <= heldout < 1")
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < fraction * 2**64


def decode(data: bytes, where: str | Path) -> Image.Image:
    """Bytes of an image file -> PIL image in mode RGB; transparency lies on white; EXIF rotation is left alone.

    Raises ValueError that names `where` for anything that is not a whole image.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return to_rgb(image)
    # Pillow reports broken files through all of these (SyntaxError: a bad PNG chunk)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:
        reason = "not an image" if isinstance(e, Image.UnidentifiedImageError) else " ".join(str(e).split())
        raise ValueError(f"cannot read image {where} ({reason}); repair or remove it, or set bad_images=skip") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Mode RGB; transparent pixels, whose stored colour is arbitrary, become white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise ValueError("pixels that are NaN or infinite")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range; 8-bit images are needed")
    if image.mode.startswith("I;16"):  # Pillow clips these to 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], any shape."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float, clamped to [-1, 1] -> uint8 0..255, rounded; inverse of `to_float`."""
    return (127.5 * images.float() + 127.5).round().clamp(0, 255).byte()
