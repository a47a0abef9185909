"""Files of a sampling run: written image by image, resumable, finished into ADM's npz convention."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import torch

from pointillist import CodeSpec
from pointillist.configs.files import cannot_write, read_json, write_json
from pointillist.configs.options import ROOT, to_dict
from pointillist.training.pictures import save_grid
from pointillist.training.request import Request


class SampleFiles:
    """OUT/parts/ holds memory-mapped images, codes, a map of finished images and the trace until all are there.

    Raises ValueError when OUT holds samples of another request, OSError when the disk is full.
    """

    def __init__(self, out: Path, request: dict, labels: np.ndarray, size: int, spec: CodeSpec) -> None:
        self.out, self.parts, self.labels = out, out / "parts", labels
        check_request(out, request)
        self.is_finished = (out / "sample.json").is_file()
        if self.is_finished:
            return
        write_json(out / "request.json", request)
        count = len(labels)
        self.images = self._open("images", (count, size, size, 3), np.uint8)
        self.codes = self._open("codes", (count, *spec.shape), np.int32 if spec.vocab else np.float32)
        self.done = self._open("done", (count,), np.uint8)

    def _open(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        path = self.parts / f"{name}.npy"
        if path.is_file():
            return np.lib.format.open_memmap(path, mode="r+")
        partial = path.with_suffix(".tmp")
        try:  # the space is claimed now: a full disk met later, through the map, would be a bus error
            self.parts.mkdir(exist_ok=True)
            np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape).flush()
            with open(partial, "r+b") as f:
                os.posix_fallocate(f.fileno(), 0, partial.stat().st_size)
            partial.rename(path)
        except OSError as e:
            partial.unlink(missing_ok=True)
            raise cannot_write(path, e) from None
        return np.lib.format.open_memmap(path, mode="r+")

    def missing(self) -> np.ndarray:
        """Indices of images still to be made, ascending."""
        return np.flatnonzero(self.done == 0)

    def counted(self) -> dict | None:
        """The trace of what is done, if any."""
        path = self.parts / "trace.json"
        return read_json(path) if path.is_file() else None

    def write(self, index: np.ndarray, images: np.ndarray, codes: np.ndarray, trace: dict) -> None:
        """Store uint8 images [B, 3, S, S] and codes [B, N, ...] of image numbers [B]; marked done once on disk."""
        self.images[index] = images.transpose(0, 2, 3, 1)
        self.codes[index] = codes
        self.images.flush()
        self.codes.flush()
        write_json(self.parts / "trace.json", trace)
        self.done[index] = 1
        self.done.flush()

    def finish(self, report: dict, names: list[str], title: str, above: list[tuple[str, torch.Tensor]]) -> None:
        """Write grid.png, images.npz, codes.npz and, last, sample.json; then the parts go."""
        self._save_grid(names, title, above)
        np.save(self.parts / "labels.npy", self.labels.astype(np.int64))
        _zip(self.out / "images.npz", {"arr_0": self.parts / "images.npy", "arr_1": self.parts / "labels.npy"})
        _zip(self.out / "codes.npz", {"codes": self.parts / "codes.npy", "labels": self.parts / "labels.npy"})
        write_json(self.out / "sample.json", report)
        shutil.rmtree(self.parts)

    def _save_grid(self, names: list[str], title: str, above: list, columns: int = 12) -> None:
        """Under the rows given, the first samples of each class, at most sixteen classes."""
        rows = list(above)
        for label in np.unique(self.labels)[:16]:
            first = self.images[np.flatnonzero(self.labels == label)[:columns]]
            rows.append((names[label], torch.from_numpy(first).permute(0, 3, 1, 2)))
        save_grid(rows, self.out / "grid.png", title)


def check_request(out: Path, request: dict) -> None:
    """Raises ValueError, saying what has changed, when `out` is a file or holds what another request made."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose a folder with out=FOLDER")
    if (out / "request.json").is_file():
        usual = to_dict(Request())  # of options that were not there yet
        before = usual | read_json(out / "request.json")
        changed = [f"{k} was {before.get(k)}, is {v}" for k, v in request.items() if before.get(k) != v]
        if changed:
            raise ValueError(f"{out} holds other samples: {'; '.join(changed)}; choose another out=FOLDER")


def _zip(path: Path, members: dict[str, Path]) -> None:
    """An uncompressed npz streamed from .npy files: no second copy in memory."""
    partial = path.with_suffix(".tmp")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, member in members.items():
                archive.write(member, f"{name}.npy")
        partial.replace(path)
    except OSError as e:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, e) from None


def git_commit() -> str:
    """The checkout's commit, with + if files differ from it; empty outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
