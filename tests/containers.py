"""The same images in everything that can hold images, for tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pointillist.evaluation.samples import Samples

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), np.uint8)
LABELS = np.arange(70) % 5


def pixels(samples: Samples) -> np.ndarray:
    """All images, uint8 [N, S, S, 3]."""
    return torch.cat(list(samples.batches())).permute(0, 2, 3, 1).numpy()


def encoded(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS = {"folder": write_folder, "x.zip": write_zip, "x.tar": write_tar}
