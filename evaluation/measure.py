"""One pass over images: each network sees each image once, and what the scores need is gathered meanwhile.

The state of a pass is a folder. Sums are small; what grows with the number of images (banks of features, a digest and
the class of each image) lies there in memory-mapped arrays. A pass that was stopped continues where it last saved, with
any number of processes, and every image is counted once: which are done is a bitmap that is saved with the sums.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from pointillist.configs.files import cannot_write, read_json, write_json
from pointillist.evaluation.features import BANK, CLASSES, MOMENTS
from pointillist.evaluation.frechet import Gaussian
from pointillist.evaluation.guards import DIGEST, Census, digests, oddities
from pointillist.evaluation.samples import Samples
from pointillist.evaluation.scores.inception_score import ClassSums
from pointillist.evaluation.tally import Tally, Wanted
from pointillist.training.processes import Processes

SPOT = 4  # images by which a folder's are recognised
LARGEST_HALF = 60_000.0  # a feature beyond it would not survive float16


@dataclass(frozen=True, eq=False)
class Measured:
    """Features of N images (see `Features`), and what is known of each image.

    census      a digest and oddities of each
    predicted   int16 [N], the most likely class; None without class probabilities
    rows        name -> float32 [N]
    """

    network: str
    count: int
    tally: Tally
    banks: dict[str, np.ndarray]
    census: Census
    predicted: np.ndarray | None
    rows: dict[str, np.ndarray]

    def seen_by(self, network: str) -> Measured:
        """The same images as another network sees them."""
        return Measured(network, *(getattr(self, f) for f in self.__dataclass_fields__ if f != "network"))

    def moments(self, layer: str) -> Gaussian:
        return self.tally.moments[f"{self.network}/{layer}"].gaussian

    def classes(self, layer: str) -> ClassSums:
        return self.tally.classes[f"{self.network}/{layer}"]

    def bank(self, layer: str) -> np.ndarray:
        return self.banks[f"{self.network}/{layer}"]


# ---------------------------------------------------------------------------------------------------------------- pass


class Pass:
    """One pass over `samples`, its state in `folder`."""

    def __init__(self, folder: Path, samples: Samples, networks: dict[str, Any], wanted: Wanted, group: Processes):
        self.folder, self.samples, self.networks, self.wanted, self.group = folder, samples, networks, wanted, group

    @property
    def request(self) -> dict:
        """What the folder must say to be continued."""
        request = {
            "images": self.samples.identity,
            "count": self.samples.count,
            "card": self.samples.card,
            "networks": {name: self.networks[name].sha256 for name in self.wanted.layers},
            "wanted": self.wanted.card(),
        }
        return json.loads(json.dumps(request))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A second command in the same folder waits, and then finds the work done. Raises OSError."""
        if not self.group.is_first:
            yield
            return
        path = self._lock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "w")  # noqa: SIM115 closed below, not before the work is done
        except OSError as e:
            raise cannot_write(path, e) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another command is measuring in {self.folder}; waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def _lock(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")

    def open(self) -> None:
        """Take up what the folder holds of this request, or begin anew. Raises OSError, ValueError."""
        if self.group.is_first and not self._is_begun():
            (self.folder / "request.json").unlink(missing_ok=True)  # first: without it the folder is nothing
            shutil.rmtree(self.folder, ignore_errors=True)
            for name, dtype, shape in self._arrays():
                self._create(self.folder / f"{name}.npy", dtype, shape)
            write_json(self.folder / "request.json", self.request)  # last: with it the folder is whole
        self.group.wait()
        self.rows = self._open_rows()
        self.tally, self.others = self._load()
        self.saved = time.monotonic()

    def _is_begun(self) -> bool:
        """Whether the folder holds this request's arrays, and the first images in them are these.

        Names, sizes and dates of files may be equal where pixels are not; computed images are known by what made them,
        and in another batch may differ by rounding.
        """
        if not all((self.folder / f"{name}.npy").is_file() for name, *_ in self._arrays()):
            return False
        if not (self.folder / "request.json").is_file() or read_json(self.folder / "request.json") != self.request:
            return False
        seen = np.load(self.folder / "digest.npy", mmap_mode="r")
        first = np.flatnonzero(seen.any(1))[: SPOT * self.samples.stored]
        return not len(first) or np.array_equal(seen[first], digests(self.samples.read(first)))

    def _create(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape).flush()
            # the space is claimed now: a full disk met later, through the map, would be a bus error
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as e:
            raise cannot_write(path, e) from None

    def _arrays(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        n = self.samples.count
        yield "digest", "uint8", (n, DIGEST)
        yield "flags", "uint8", (n,)
        for network, layer in self.wanted.of(BANK):
            yield f"bank-{network}-{layer}", self.wanted.dtype, (n, self.networks[network].layers[layer])
        if any(self.wanted.of(CLASSES)):
            yield "predicted", "int16", (n,)
        yield from ((f"row-{name}", "float32", (n,)) for name in self.wanted.rows)

    def _open_rows(self) -> dict[str, np.ndarray]:
        return {name: np.lib.format.open_memmap(self.folder / f"{name}.npy", "r+") for name, _, _ in self._arrays()}

    # ------------------------------------------------------------------------------------------------- save and load

    def _load(self) -> tuple[Tally, Tally]:
        """(what this process counted before, what processes counted that there are no more)."""
        mine = others = Tally(np.zeros(self.samples.count, bool))
        for path in sorted(self.folder.glob("state-*.safetensors")):
            number = int(re.sub(r"\D", "", path.stem))
            if number == self.group.rank:
                mine = self._read(path)
            elif number >= self.group.count and self.group.is_first:
                others = others + self._read(path).settled(self.wanted)
        return mine, others

    def _read(self, path: Path) -> Tally:
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a dict
            return Tally.restore(tensors, self.samples.count)
        except (SafetensorError, KeyError) as e:
            raise ValueError(f"{path} is damaged ({e}); delete {self.folder} to measure anew") from None

    def save(self) -> None:
        """Arrays first: what the bitmap calls done is on disk. Raises OSError."""
        path = self.folder / f"state-{self.group.rank}.safetensors"
        for array in self.rows.values():
            array.flush()
        try:
            save_file(self.tally.tensors(), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        except (OSError, SafetensorError) as e:
            reason = e if isinstance(e, OSError) else OSError(str(e))
            raise cannot_write(path, reason) from None
        self.saved = time.monotonic()

    # ------------------------------------------------------------------------------------------------------- measure

    def run(self, batch: int, title: str, save_every: float = 30) -> Measured:
        """Measure what is missing, `batch` images at a time, saving after so many seconds, and on Ctrl-C.

        Raises ValueError for features that are NaN, and what reading the images raises.
        """
        with self._alone():
            self.open()
            self._measure_missing(batch, title, save_every)
            return self._gathered()

    def _measure_missing(self, batch: int, title: str, save_every: float) -> None:
        done = self.group.any(self.tally.done | self.others.done)
        blocks = np.unique(np.flatnonzero(~done) // batch)  # fixed blocks: a batch is the same in any order of things
        mine = self.group.share(blocks)
        bar = tqdm(
            total=len(done), initial=int(done.sum()), desc=title, unit="image", dynamic_ncols=True, mininterval=1,
            disable=not self.group.is_first,
        )  # fmt: skip
        try:
            for block in mine:
                index = np.arange(block * batch, min((block + 1) * batch, len(done)))
                index = index[~done[index]]
                self.tally = self.tally.with_batch(index, self._measure(index), self.wanted)
                bar.update(len(index) * (len(blocks) / max(len(mine), 1)))
                if time.monotonic() - self.saved >= save_every:
                    self.save()
        finally:
            bar.close()
            if len(mine):
                self.save()

    def remove(self) -> None:
        """Forget the pass: what came of it is stored elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.unlink(missing_ok=True)

    def _measure(self, index: np.ndarray) -> dict[str, Tensor]:
        """What sums are made of, by "network/layer"; everything else is written."""
        images, found = self.samples.read(index), {}
        self.rows["digest"][index] = digests(images)
        self.rows["flags"][index] = oddities(images)
        for name, function in self.wanted.rows.items():
            self.rows[f"row-{name}"][index] = function(index, images).numpy()
        for name, layers in self.wanted.layers.items():
            for layer, features in self.networks[name](images, layers).items():
                kinds, key = layers[layer], f"{name}/{layer}"
                self._check(features, index, key)
                if kinds & {MOMENTS, CLASSES}:
                    found[key] = features
                if CLASSES in kinds:
                    self.rows["predicted"][index] = features.argmax(1).numpy()
                if BANK in kinds:
                    self.rows[f"bank-{name}-{layer}"][index] = features.numpy()
        return found

    def _check(self, features: Tensor, index: np.ndarray, key: str) -> None:
        bad = ~features.isfinite().all(1)
        if bad.any():
            first = int(index[int(bad.nonzero()[0])])
            raise ValueError(
                f"{int(bad.sum())} of {len(index)} images have NaN or infinite features ({key}), the first is number "
                f"{first} of {self.samples.source}; look at it, and at the network's weights"
            )
        if self.wanted.dtype == "float16" and float(features.abs().max()) > LARGEST_HALF:
            raise ValueError(f"features {key} are beyond float16; run it with bank=fp32")

    def _gathered(self) -> Measured:
        """All processes' sums together."""
        own = self.tally.settled(self.wanted) + self.others
        missing = ~self.group.any(own.done)
        assert not missing.any(), f"{missing.sum()} images were not counted"
        if self.group.count > 1:  # one that had no image brings zeros
            widths = {f"{n}/{layer}": w for n in self.wanted.layers for layer, w in self.networks[n].layers.items()}
            sums = (Tally.zero(self.samples.count, self.wanted, widths) + own).sums()
            reduced = dict(zip(sums, self.group.sum(list(sums.values())), strict=True))
            own = Tally.restore({**Tally(~missing).tensors(), **reduced}, self.samples.count)
        self.group.wait()
        self.rows = self._open_rows()  # what other machines wrote is not in maps of before
        banks = {f"{n}/{layer}": self.rows[f"bank-{n}-{layer}"] for n, layer in self.wanted.of(BANK)}
        rows = {name: self.rows[f"row-{name}"] for name in self.wanted.rows}
        first = next(iter(self.wanted.layers), "")
        predicted = self.rows.get("predicted")
        census = Census(self.rows["digest"], self.rows["flags"])
        return Measured(first, self.samples.count, own, banks, census, predicted, rows)
