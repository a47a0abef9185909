"""Writing a frozen-code cache: images through the tokenizer's encoder once, codes to disk.

    FOLDER/request.json     written first: what is asked for, so that a build is never continued with something else
    FOLDER/codes-00000.npy  [rows, views, N] | [rows, views, N, books] | [rows, views, N, C or 2C], little-endian
    FOLDER/labels.npy       int64 [n]
    FOLDER/manifest.json    written last: the request, and size and sha256 of every file; its presence means "complete"

A file appears under its name only when whole (FILE.tmp, fsync, rename), so an interrupted build continues after the
last whole shard. Batches start anew in every shard: codes do not depend on where a build was interrupted. One writer
a folder.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pointillist import CodeSpec
from pointillist.configs.files import file_hash, write_json, write_whole
from pointillist.data.crops import Views, in_force, num_views
from pointillist.data.images import Images, to_float
from pointillist.data.loader import all_views, num_threads

FORMAT = 1
REQUEST, LABELS, MANIFEST = "request.json", "labels.npy", "manifest.json"


def code_dtype(spec: CodeSpec) -> np.dtype:
    """Smallest little-endian type that holds the codes; float16 for continuous ones."""
    if not spec.vocab:
        return np.dtype("<f2")
    for name in ("<u1", "<u2", "<u4"):
        if max(spec.vocab) <= np.iinfo(name).max + 1:
            return np.dtype(name)
    raise ValueError(f"a vocabulary of {max(spec.vocab)} codes does not fit 32 bits: split it into books")


def code_shape(spec: CodeSpec) -> tuple[int, ...]:
    """Shape of one image's codes: (N,) | (N, books) | (N, C) | (N, 2C) with means first."""
    if spec.vocab:
        return (spec.length,) if len(spec.vocab) == 1 else (spec.length, len(spec.vocab))
    return spec.length, spec.channels * (2 if spec.stochastic else 1)


def request_for(tokenizer: Any, tokenizer_id: dict, images: Images, views: Views) -> dict:
    """Everything the codes depend on, JSON-ready."""
    return {
        "format": FORMAT,
        "tokenizer": dict(tokenizer_id),
        "spec": json.loads(json.dumps(asdict(tokenizer.spec))),
        "views": asdict(in_force(views)),
        "data": {"name": images.name, "images": len(images), "fingerprint": images.fingerprint},
        "classes": list(images.classes),
    }


class ShardPlan:
    """Which rows lie in which shard, and the shape and type of each."""

    def __init__(self, request: dict):
        self.spec = CodeSpec.from_dict(request["spec"])
        self.rows, self.total = request["layout"]["shard_rows"], request["data"]["images"]
        self.views = num_views(Views(**request["views"]))
        self.names = [f"codes-{i:05d}.npy" for i in range(-(-self.total // self.rows))]

    def span(self, shard: int) -> range:
        return range(shard * self.rows, min(self.total, (shard + 1) * self.rows))

    def shape(self, shard: int) -> tuple[int, ...]:
        return len(self.span(shard)), self.views, *code_shape(self.spec)

    def nbytes(self, shard: int) -> int:
        return int(np.prod(self.shape(shard))) * code_dtype(self.spec).itemsize

    def is_whole(self, path: Path, shard: int) -> bool:
        """A shard of the right shape and type lies there."""
        try:
            codes = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        return codes.shape == self.shape(shard) and codes.dtype == code_dtype(self.spec)


def write_codes(folder: Path, request: dict, tokenizer: Any, images: Images, device: Any, progress: bool) -> None:
    """Write the missing shards of `request` (which holds "layout") and then the manifest.

    Raises OSError in one line when the disk is full or the folder cannot be written; what is whole stays.
    """
    assert not getattr(tokenizer, "training", False), "call tokenizer.eval() before its codes are frozen"
    plan = ShardPlan(request)
    missing = [i for i, name in enumerate(plan.names) if not plan.is_whole(folder / name, i)]
    need, free = sum(map(plan.nbytes, missing)), shutil.disk_usage(folder).free
    if need > free:
        raise OSError(f"the codes need {need / 1e6:.1f} MB more but {folder} has {free / 1e6:.1f} MB free; make room "
                      "or choose another codes=FOLDER")  # fmt: skip
    done = len(images) - sum(len(plan.span(i)) for i in missing)
    with tqdm(total=len(images), initial=done, desc=f"encoding {images.name}", unit="img", disable=not progress) as bar:
        for i in missing:
            blocks = encode_rows(tokenizer, images, request, plan.span(i), device)
            write_whole(folder / plan.names[i], _npy(blocks, plan.shape(i), code_dtype(plan.spec), bar.update))
    labels = io.BytesIO()
    np.save(labels, images.labels)
    write_whole(folder / LABELS, [labels.getvalue()])
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
             for name in [*plan.names, LABELS]}  # fmt: skip
    made = {"torch": torch.__version__, "device": str(device)}
    write_json(folder / MANIFEST, {**request, "made_with": made, "files": files})


def encode_rows(tokenizer: Any, images: Images, request: dict, rows: range, device: Any) -> Iterator[np.ndarray]:
    """Blocks [r, V, *code_shape] of codes of consecutive rows; the next block's images are decoded meanwhile."""
    spec, views = tokenizer.spec, Views(**request["views"])
    batch_size = request["layout"]["batch_size"]
    per_block = max(1, batch_size // num_views(views))
    starts = range(0, len(rows), per_block)
    with ThreadPoolExecutor(num_threads()) as pool:

        def submit(start: int) -> list[Future]:
            return [pool.submit(all_views, images, views, i, 0) for i in rows[start : start + per_block]]

        try:
            ahead = submit(0)
            for start in starts:
                jobs, ahead = ahead, submit(start + per_block)
                pixels = torch.from_numpy(np.concatenate([job.result() for job in jobs]))  # [r * V, 3, H, W]
                codes = np.concatenate([encode_batch(tokenizer, spec, p, device) for p in pixels.split(batch_size)])
                yield codes.reshape(len(jobs), -1, *codes.shape[1:])
        finally:
            pool.shutdown(cancel_futures=True)


@torch.inference_mode()
def encode_batch(tokenizer: Any, spec: CodeSpec, pixels: torch.Tensor, device: Any) -> np.ndarray:
    """uint8 [B, 3, H, W] -> codes [B, *code_shape] in the cache's type, checked to fit it."""
    codes = tokenizer.encode(to_float(pixels.to(device))).cpu()
    assert codes.shape[1:] == code_shape(spec), f"encode gave {tuple(codes.shape)}, its spec says {code_shape(spec)}"
    if spec.vocab:
        assert not codes.is_floating_point() and codes.min() >= 0, f"codes of type {codes.dtype}, min {codes.min()}"
        assert (codes.reshape(len(codes), spec.length, -1) < torch.tensor(spec.vocab)).all(), "code >= vocab"
        return codes.numpy().astype(code_dtype(spec))
    stored = codes.to(torch.float16).numpy()
    if not np.isfinite(stored).all():
        raise ValueError(f"the tokenizer gave codes up to {codes.abs().max():.3g}: float16 cannot hold them")
    return stored


def _npy(blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, advance: Callable) -> Iterator[bytes]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    yield header.getvalue()
    for block in blocks:
        yield block.tobytes()
        advance(len(block))
