"""Files of a sampling run: written image by image, resumable, finished into ADM's npz convention."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import torch

from pointillist.configs.options import ROOT
from pointillist.training.pictures import save_grid


class SampleFiles:
    """OUT/parts/ holds memory-mapped images, codes and a map of finished images until all are there.

    Raises ValueError when OUT holds samples of another request, OSError when the disk is full.
    """

    def __init__(self, out: Path, request: dict, labels: np.ndarray, size: int, length: int) -> None:
        self.out, self.parts, self.labels = out, out / "parts", labels
        count = len(labels)
        self.shapes = {"images": ((count, size, size, 3), np.uint8), "codes": ((count, length), np.int32)}
        self.shapes["done"] = ((count,), np.uint8)
        self._claim(request)
        self.arrays = {name: self._open(name) for name in self.shapes}

    def _claim(self, request: dict) -> None:
        path = self.out / "request.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [f"{k} was {before.get(k)}, is {v}" for k, v in request.items() if before.get(k) != v]
            if changed:
                raise ValueError(f"{self.out} holds other samples: {'; '.join(changed)}; choose another out=FOLDER")
        self.parts.mkdir(parents=True, exist_ok=True)
        _write_whole(path, json.dumps(request, indent=1))

    def _open(self, name: str) -> np.ndarray:
        path, (shape, dtype) = self.parts / f"{name}.npy", self.shapes[name]
        if path.is_file():
            return np.lib.format.open_memmap(path, mode="r+")
        partial = path.with_suffix(".tmp")
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        try:  # claim the space now: a full disk met later through the map would be a bus error
            _reserve(partial)
        except OSError as e:
            partial.unlink()
            raise OSError(f"cannot write {array.nbytes / 1e6:.0f} MB to {self.out}: {e.strerror}; free space") from None
        partial.rename(path)
        return array

    def missing(self) -> np.ndarray:
        """Indices of images still to be made, ascending."""
        if (self.out / "sample.json").is_file():
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.arrays["done"] == 0)

    def write(self, index: np.ndarray, images: np.ndarray, codes: np.ndarray) -> None:
        """Store uint8 images [B, 3, S, S] and codes [B, N] of image numbers [B]; marked done once on disk."""
        self.arrays["images"][index] = images.transpose(0, 2, 3, 1)
        self.arrays["codes"][index] = codes
        for name in ("images", "codes"):
            self.arrays[name].flush()
        self.arrays["done"][index] = 1
        self.arrays["done"].flush()

    def finish(self, report: dict) -> Path:
        """Write images.npz, codes.npz and, last, sample.json; then the parts go."""
        if not (self.out / "sample.json").is_file():
            np.save(self.parts / "labels.npy", self.labels.astype(np.int64))
            _zip(self.out / "images.npz", {"arr_0": self.parts / "images.npy", "arr_1": self.parts / "labels.npy"})
            _zip(self.out / "codes.npz", {"codes": self.parts / "codes.npy", "labels": self.parts / "labels.npy"})
            _write_whole(self.out / "sample.json", json.dumps(report, indent=1))
        self.arrays.clear()
        shutil.rmtree(self.parts)
        return self.out


def _reserve(path: Path) -> None:
    import os

    with open(path, "r+b") as f:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(f.fileno(), 0, path.stat().st_size)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _zip(path: Path, members: dict[str, Path]) -> None:
    """An uncompressed npz streamed from .npy files: no second copy in memory."""
    partial = path.with_suffix(".tmp")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, member in members.items():
                archive.write(member, f"{name}.npy")
    except OSError as e:
        partial.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {e.strerror}; free space, then run the same command") from None
    partial.replace(path)


def save_sample_grid(out: Path, names: list[str], title: str, columns: int = 12) -> None:
    """grid.png: the first samples of each class, at most sixteen classes."""
    with np.load(out / "images.npz") as samples:
        images, labels = torch.from_numpy(samples["arr_0"]).permute(0, 3, 1, 2), samples["arr_1"]
    rows = [(names[c], images[labels == c][:columns]) for c in np.unique(labels)[:16]]
    save_grid(rows, out / "grid.png", title)


def git_commit() -> str:
    """The checkout's commit, with + if files differ from it; empty outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True
        )
    except OSError:
        return ""
    return run.stdout.strip()
