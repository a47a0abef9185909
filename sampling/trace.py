"""Trace: what sampling cost, counted the same way for every sampler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Trace:
    """Counts over all batches of a run.

    A guided pass is one evaluation with `streams` = 2: both halves run together.

    seconds    wall time inside `timed`, the device's work included
    codes_asked  laws asked for, of all passes and streams
    nfe        images by how many passes were made while the image was unfinished
    committed  (image, pass) pairs by how many groups were kept
    """

    streams: int = 1
    passes: int = 0
    codes_asked: int = 0
    seconds: float = 0.0
    nfe: dict[int, int] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)

    def query(self, law: Any, state: Any, slots: Tensor, draft: Tensor | None = None) -> Any:
        """law.query, counted."""
        dist = law.query(state, slots, draft)
        self.streams = law.streams
        self.passes += dist.passes
        self.codes_asked += slots.numel() * self.streams * dist.passes
        return dist

    def kept(self, groups: int, times: int) -> None:
        """`times` images kept `groups` groups from a pass before which they were unfinished."""
        self.committed[groups] = self.committed.get(groups, 0) + times

    def finished(self, nfe: int, images: int) -> None:
        """`images` images were completed after `nfe` evaluations each."""
        self.nfe[nfe] = self.nfe.get(nfe, 0) + images

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds += time.perf_counter() - begin

    def summary(self) -> dict[str, Any]:
        """JSON-ready. nfe_per_image is the mean over images; `restore` is the inverse."""
        images = sum(self.nfe.values())
        return {
            "images": images,
            "nfe_per_image": sum(nfe * count for nfe, count in self.nfe.items()) / max(images, 1),
            "seconds_per_image": self.seconds / max(images, 1),
            "streams": self.streams,
            "passes": self.passes,
            "codes_asked": self.codes_asked,
            "seconds": self.seconds,
            "nfe": {str(k): v for k, v in sorted(self.nfe.items())},
            "committed": {str(k): v for k, v in sorted(self.committed.items())},
        }

    @classmethod
    def restore(cls, summary: dict[str, Any]) -> Trace:
        """Continue counting where a stopped run left off."""
        counts = {k: summary[k] for k in ("streams", "passes", "codes_asked", "seconds")}
        return cls(**counts, **{k: {int(n): v for n, v in summary[k].items()} for k in ("nfe", "committed")})
