"""Batches of codes from a memory-mapped cache, beside a file an image, as LlamaGen's dataset reads them.

    python benchmarks/loader.py [batch=64,256,1024] [images=200000] [shard_rows=20000] [files=4000] [steps=200]

A cache of random uint16 codes, 256 an image in two views, in several shards, is written to a temporary folder and read
warm: rows a second of `batch(step)`, the order of the epoch and the conversion to int64 included. The other one opens a
.npy of its own for every image, in a loop over the rows. Medians of rounds that take turns; beside them the share of
what the machine reads a second. Run it alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import bandwidth, interleaved, limits, medians, table
from torch import Tensor

from pointillist.configs.options import load, option, parse, run
from pointillist.data.codes import Codes

CODES, VIEWS, VOCAB, ROUNDS = 256, 2, 16384, 5


@dataclass
class Benchmark:
    batch: str = option("64,256,1024", "rows a batch")
    images: int = option(200_000, "in the cache")
    shard_rows: int = option(20_000, "images of a shard")
    files: int = option(4000, "images of the other layout, a file each")
    steps: int = option(200, "batches a round")


def cache(folder: Path, o: Benchmark) -> Codes:
    shards = []
    for first in range(0, o.images, o.shard_rows):
        shape = (min(o.shard_rows, o.images - first), VIEWS, CODES)
        codes = np.random.default_rng(first).integers(VOCAB, size=shape, dtype=np.uint16)
        np.save(path := folder / f"{first}.npy", codes)
        shards.append(np.load(path, mmap_mode="r"))
    spec = {"grids": [[16, 16]], "vocab": [VOCAB], "channels": 8, "ordered": False, "stochastic": False}
    manifest = {"spec": spec, "classes": ["one"], "layout": {"shard_rows": o.shard_rows}}
    return Codes(folder, manifest, shards, np.zeros(o.images, np.int64))


def write_files(folder: Path, count: int) -> None:
    for i in range(count):
        np.save(folder / f"image{i}.npy", np.random.default_rng(i).integers(VOCAB, size=(1, VIEWS, CODES)))


def from_files(folder: Path, count: int, batch: int) -> Tensor:
    rows = np.random.randint(count, size=batch)
    return torch.stack([torch.from_numpy(np.load(folder / f"image{i}.npy")[0, i % VIEWS]) for i in rows])


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    print(limits())
    with tempfile.TemporaryDirectory() as folder:
        codes, rows = cache(Path(folder), o), []
        write_files(Path(folder), o.files)
        for batch in map(int, o.batch.split(",")):
            rows += measured(codes, Path(folder), o, batch)
    print(table(["batch", "of", "rows/s", "us a batch", "of reading", "x files"], rows))


def measured(codes: Codes, folder: Path, o: Benchmark, batch: int) -> list[list[str]]:
    few = max(1, o.steps // 20)  # batches of files a round: they take longer
    calls: dict[str, Callable[[], object]] = {
        "memory map": lambda: [codes.batch(step, batch, 0) for step in range(o.steps)],
        "files": lambda: [from_files(folder, o.files, batch) for _ in range(few)],
    }
    middle = medians(interleaved(calls, ROUNDS))
    rate = {"memory map": batch * o.steps / middle["memory map"], "files": batch * few / middle["files"]}
    read, limit = (
        {"memory map": 2, "files": 8 * VIEWS},
        bandwidth() * 1e9,
    )  # bytes a code: uint16, or int64 in all views
    return [
        [str(batch), name, f"{x:,.0f}", f"{1e6 * batch / x:.0f}", f"{x * CODES * read[name] / limit:.1%}",
         f"{x / rate['files']:.1f}"]
        for name, x in rate.items()
    ]  # fmt: skip


if __name__ == "__main__":
    run(main)
