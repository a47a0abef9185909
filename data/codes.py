"""The frozen-code cache: open it (building what is missing), and draw training batches of codes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.configs.files import file_hash, read_json, write_json
from pointillist.data import encode
from pointillist.data.crops import Views
from pointillist.data.images import Images
from pointillist.data.order import draw

VERIFY_BYTES = 256 * 2**20  # caches up to this size are checked byte for byte whenever they are opened


class Codes:
    """Codes of n images x V views, memory-mapped.

    spec     of the tokenizer that made them
    labels   int64 [n]; classes: their names
    """

    def __init__(self, folder: Path, manifest: dict, shards: list[np.ndarray], labels: np.ndarray):
        self.folder, self.shards, self.labels = folder, shards, labels
        self.spec = CodeSpec.from_dict(manifest["spec"])
        self.classes = tuple(manifest["classes"])
        self.shard_rows = manifest["layout"]["shard_rows"]
        # [rows * V, ...], still mapped; without the class memmap, which makes every small access slow
        self._flat = [np.asarray(shard).reshape(-1, *shard.shape[2:]) for shard in shards]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_views(self) -> int:
        return self.shards[0].shape[1]

    def batch(self, step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
        """{"codes": int64 [B, N] or [B, N, books] or float32 [B, N, C], "labels": int64 [B], "index": int64 [B]}.

        A pure function of (step, batch_size, seed): each epoch a new order, each image in one of its views at random;
        stochastic codes are drawn, mean + std * noise.
        """
        index, view = draw(step, batch_size, len(self), self.num_views, seed)
        codes = self._rows(index, view)
        if self.spec.stochastic:
            mean, std = np.split(codes.astype(np.float32), 2, axis=-1)
            noise = np.random.default_rng((seed, step)).standard_normal(mean.shape, dtype=np.float32)
            codes = mean + std * noise
        return {
            "codes": _tensor(codes),
            "labels": torch.from_numpy(self.labels[index]),
            "index": torch.from_numpy(index),
        }

    def view(self, k: int) -> Tensor:
        """All codes of view k, [n, *code_shape] int64 or float32 (stochastic: means and stds beside each other).

        View 0 is the plain centre crop. Held in memory: 2 GB for ImageNet at N = 256.
        """
        assert 0 <= k < self.num_views, f"view {k} of {self.num_views}"
        return torch.cat([_tensor(shard[:, k]) for shard in self.shards])

    def rows(self, index: np.ndarray, view: int = 0) -> Tensor:
        """Codes of images [B] in one view, as in `batch` (stochastic: means and stds beside each other)."""
        return _tensor(self._rows(index, np.full(len(index), view)))

    def _rows(self, index: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Codes of images [B] in views [B], as they are stored: one gather for each shard."""
        if len(self._flat) == 1:
            return self._flat[0].take(index * self.num_views + view, axis=0)
        sorted_by_shard = np.argsort(index // self.shard_rows, kind="stable")
        index, view = index[sorted_by_shard], view[sorted_by_shard]
        ends = np.searchsorted(index // self.shard_rows, np.arange(len(self._flat) + 1)).tolist()
        row = index % self.shard_rows * self.num_views + view
        codes = np.empty((len(index), *self._flat[0].shape[1:]), self._flat[0].dtype)
        for flat, first, last in zip(self._flat, ends, ends[1:], strict=False):
            if first < last:
                codes[sorted_by_shard[first:last]] = flat.take(row[first:last], axis=0)
        return codes


def _tensor(codes: np.ndarray) -> Tensor:
    return torch.from_numpy(codes.astype(np.float32 if codes.dtype.kind == "f" else np.int64))


def open_codes(
    folder: str | Path,
    tokenizer: Any,
    tokenizer_id: dict[str, str],
    images: Images,
    views: Views,
    *,
    shard_rows: int = 50_000,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: bool = True,
    verify: bool = False,
) -> Codes:
    """The codes of (tokenizer, images, views) in `folder`; what is missing is encoded first.

    tokenizer_id is {"name", "sha256"}; `shard_rows` and `batch_size` shape a new cache and are otherwise ignored.
    verify reads every byte; caches up to 256 MB are always verified.

    Raises ValueError, one line, when the folder holds the codes of another tokenizer, of other data or views, is
    damaged, or holds something else; OSError when it cannot be written.
    """
    folder = Path(folder)
    if len(images) == 0:
        raise ValueError(f"{images.name} has no images to encode")
    wanted = encode.request_for(tokenizer, tokenizer_id, images, views)
    wanted["layout"] = {"shard_rows": shard_rows, "batch_size": batch_size}
    if (folder / encode.MANIFEST).exists():
        check_request(folder, read_part(folder / encode.MANIFEST), wanted)
        return read_codes(folder, verify, images.labels)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another codes=FOLDER")
    if (folder / encode.REQUEST).exists():
        begun = read_part(folder / encode.REQUEST)
        check_request(folder, begun, wanted)
        wanted["layout"] = begun["layout"]
    elif folder.exists() and any(path.suffix != ".tmp" for path in folder.iterdir()):
        raise ValueError(f"{folder} holds other files and no code cache; choose another codes=FOLDER")
    else:
        write_json(folder / encode.REQUEST, wanted)
    encode.write_codes(folder, wanted, tokenizer, images, device, progress)
    return read_codes(folder, verify, images.labels)


def read_codes(folder: str | Path, verify: bool = False, labels: np.ndarray | None = None) -> Codes:
    """A complete cache, whatever made it. ValueError: incomplete, damaged, or its labels are not `labels`."""
    folder = Path(folder)
    if not (folder / encode.MANIFEST).exists():
        raise ValueError(f"{folder} is no complete code cache ({encode.MANIFEST} is missing); train.py writes one")
    manifest = read_part(folder / encode.MANIFEST)
    verify = verify or sum(file["bytes"] for file in manifest["files"].values()) <= VERIFY_BYTES
    for name, file in manifest["files"].items():
        check_file(folder / name, file["bytes"], file["sha256"] if verify else None)
    plan = encode.ShardPlan(manifest)
    for i, name in enumerate(plan.names):
        if not plan.is_whole(folder / name, i):
            raise ValueError(f"{folder / name} is damaged: not an array of shape {plan.shape(i)}; {remedy(folder)}")
    stored = np.load(folder / encode.LABELS)
    if labels is not None and not np.array_equal(stored, labels):
        raise ValueError(f"{folder} was made with other labels than the data have now; {remedy(folder)}")
    return Codes(folder, manifest, [np.load(folder / name, mmap_mode="r") for name in plan.names], stored)


# ------------------------------------------------------------------------------------------------------------ checks


def remedy(folder: Path) -> str:
    return f"delete {folder} or choose another codes=FOLDER"


def read_part(path: Path) -> dict:
    try:
        return read_json(path)
    except ValueError as e:
        raise ValueError(f"{e}; {remedy(path.parent)}") from None


def check_request(folder: Path, got: dict, wanted: dict) -> None:
    """ValueError that names the first thing in which the cache differs from what is wanted."""
    if got.get("format") != wanted["format"]:
        raise ValueError(f"{folder} has cache format {got.get('format')}, this code reads {wanted['format']}; "
                         f"{remedy(folder)}")  # fmt: skip
    for key, what, show in [
        ("tokenizer", "made with tokenizer", lambda t: f"{t.get('name')} (sha256 {t.get('sha256')!s:.12})"),
        ("spec", "made with a tokenizer of spec", str),
        ("data", "made from", lambda d: f"{d['images']} images {d['name']} (fingerprint {d['fingerprint']:.12})"),
        ("classes", "made with the classes", lambda c: ", ".join(c[:4]) + (f", ... ({len(c)})" if c[4:] else "")),
        ("views", "made with views", lambda v: " ".join(f"{k}={x}" for k, x in v.items())),
    ]:
        if got.get(key) != wanted[key]:
            raise ValueError(f"the codes in {folder} were {what} {show(got[key])}, but this run wants "
                             f"{show(wanted[key])}; {remedy(folder)}")  # fmt: skip


def check_file(path: Path, size: int, sha256: str | None) -> None:
    if not path.exists():
        raise ValueError(f"{path} is missing; {remedy(path.parent)}")
    if path.stat().st_size != size:
        raise ValueError(f"{path} is damaged: {path.stat().st_size} bytes instead of {size}; {remedy(path.parent)}")
    if sha256 and file_hash(path) != sha256:
        raise ValueError(f"{path} is damaged: its sha256 is not the one in {encode.MANIFEST}; {remedy(path.parent)}")
