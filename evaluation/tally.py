"""What a pass is to gather, and what one process has counted so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from pointillist.evaluation.features import CLASSES, MOMENTS
from pointillist.evaluation.frechet import Statistics
from pointillist.evaluation.scores.inception_score import ClassSums

TOGETHER = 1024  # images that enter the sums at once: 64 at a time cost 20 times as much


@dataclass(frozen=True)
class Wanted:
    """What a pass gathers.

    layers  network -> layer -> kinds (MOMENTS, CLASSES, BANK)
    splits  int64 [N]: each image's split of the class sums; empty where no layer asks for them
    rows    name -> function of (image numbers [b], uint8 images [b, 3, S, S]) to float [b]: a number an image
    dtype   of the banks: float16 halves the disk and moves no published digit
    """

    layers: dict[str, dict[str, set[str]]]
    splits: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    rows: dict[str, Callable[[np.ndarray, Tensor], Tensor]] = field(default_factory=dict)
    dtype: str = "float16"

    def of(self, kind: str) -> Iterator[tuple[str, str]]:
        """(network, layer) of everything of one kind."""
        yield from ((n, layer) for n, layers in self.layers.items() for layer, kinds in layers.items() if kind in kinds)

    def keys_of(self, kind: str) -> list[str]:
        """As "network/layer"."""
        return [f"{network}/{layer}" for network, layer in self.of(kind)]

    @property
    def num_splits(self) -> int:
        """Of the class sums."""
        return int(self.splits.max()) + 1 if len(self.splits) else 0

    def card(self) -> dict:
        """JSON-ready: what a folder must say to be continued."""
        layers = {n: {layer: sorted(kinds) for layer, kinds in v.items()} for n, v in self.layers.items()}
        splits = sha256(self.splits.tobytes()).hexdigest()
        return {"layers": layers, "splits": splits, "rows": sorted(self.rows), "bank": self.dtype}


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the images that are done, and features of the last ones, which wait until there are enough.

    They wait, and are saved waiting, so that the same images enter the sums together however often the work was
    stopped: sums are then equal to the last bit.

    done     bool [N]
    moments  "network/layer" -> sums of features
    classes  "network/layer" -> sums of class probabilities
    index    int64 [m], the images that wait
    waiting  "network/layer" -> their features [m, D]
    """

    done: np.ndarray
    moments: dict[str, Statistics] = field(default_factory=dict)
    classes: dict[str, ClassSums] = field(default_factory=dict)
    index: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    waiting: dict[str, Tensor] = field(default_factory=dict)

    def with_batch(self, index: np.ndarray, features: dict[str, Tensor], wanted: Wanted) -> Tally:
        """And these images: their numbers [b] and features "network/layer" -> [b, D]."""
        assert not self.done[index].any(), "an image would be counted twice"
        done = self.done.copy()
        done[index] = True
        waiting = {key: torch.cat([self.waiting.get(key, x[:0]), x]) for key, x in features.items()}
        more = replace(self, done=done, index=torch.cat([self.index, torch.from_numpy(index)]), waiting=waiting)
        return more.settled(wanted) if len(more.index) >= TOGETHER else more

    def settled(self, wanted: Wanted) -> Tally:
        """With nothing waiting."""
        if not len(self.index):
            return self
        split, splits = torch.from_numpy(wanted.splits), wanted.num_splits
        moments = {key: Statistics.of(self.waiting[key]) for key in wanted.keys_of(MOMENTS)}
        classes = {key: ClassSums.of(self.waiting[key], split[self.index], splits) for key in wanted.keys_of(CLASSES)}
        return Tally(self.done, _merged(self.moments, moments), _merged(self.classes, classes))

    def __add__(self, other: Tally) -> Tally:
        """Of two that are settled."""
        assert not len(self.index) and not len(other.index), "settle both"
        assert not (self.done & other.done).any(), "an image would be counted twice"
        moments, classes = _merged(self.moments, other.moments), _merged(self.classes, other.classes)
        return Tally(self.done | other.done, moments, classes)

    @classmethod
    def zero(cls, count: int, wanted: Wanted, widths: dict[str, int]) -> Tally:
        """No image of `count`, but sums of every layer, of the widths "network/layer" -> D."""
        none = torch.zeros(0, dtype=torch.int64)
        moments = {key: Statistics.of(torch.zeros(0, widths[key])) for key in wanted.keys_of(MOMENTS)}
        classes = {
            key: ClassSums.of(torch.zeros(0, widths[key]), none, wanted.num_splits) for key in wanted.keys_of(CLASSES)
        }
        return cls(np.zeros(count, bool), moments, classes)

    def sums(self) -> dict[str, Tensor]:
        """By name, in the same order whatever was gathered first."""
        out = {}
        for key, s in sorted(self.moments.items()):
            out |= {f"{key}/count": torch.tensor(s.count), f"{key}/total": s.total, f"{key}/outer": s.outer}
        for key, c in sorted(self.classes.items()):
            out |= {f"{key}/in_split": c.count, f"{key}/p": c.p, f"{key}/plogp": c.plogp}
        return out

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a file."""
        waiting = {f"{key}/waiting": features.contiguous() for key, features in self.waiting.items()}
        return {"done": torch.from_numpy(np.packbits(self.done)), "index": self.index, **waiting, **self.sums()}

    @classmethod
    def restore(cls, t: dict[str, Tensor], count: int) -> Tally:
        """Inverse of `tensors`, for `count` images."""

        def found(last: str) -> list[str]:
            return [name.removesuffix(f"/{last}") for name in t if name.endswith(f"/{last}")]

        return cls(
            np.unpackbits(t["done"].numpy(), count=count).astype(bool),
            {k: Statistics(int(t[f"{k}/count"]), t[f"{k}/total"], t[f"{k}/outer"]) for k in found("outer")},
            {k: ClassSums(t[f"{k}/in_split"], t[f"{k}/p"], t[f"{k}/plogp"]) for k in found("plogp")},
            t["index"],
            {k: t[f"{k}/waiting"] for k in found("waiting")},
        )


def _merged(a: dict, b: dict) -> dict:
    return {k: a[k] + b[k] if k in a and k in b else a.get(k, b.get(k)) for k in a.keys() | b.keys()}
