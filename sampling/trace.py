"""Trace: what sampling cost. Network evaluations, rows fed and wall time, counted the same way for every sampler."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Trace:
    """Counts of one or more batches.

    A guided pass is one evaluation with `streams` = 2: both halves run together. `nfe` is a histogram over images of
    passes made while the image was unfinished; `committed` a histogram over (image, pass) of groups kept.
    """

    streams: int = 1
    images: int = 0
    passes: int = 0
    codes_fed: int = 0
    seconds: float = 0.0
    nfe: dict[int, int] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)

    def query(self, law: Any, state: Any, slots: Tensor, draft: Tensor | None = None) -> Any:
        """law.query, counted."""
        begin = time.perf_counter()
        dist = law.query(state, slots, draft)
        if slots.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - begin
        self.streams = getattr(law, "streams", 1)
        self.passes += 1
        self.codes_fed += slots.numel() * self.streams
        return dist

    def kept(self, groups: Tensor) -> None:
        """Groups [B] kept from one pass, for images still unfinished before it."""
        for count, images in zip(*(x.tolist() for x in groups.unique(return_counts=True)), strict=True):
            self.committed[count] = self.committed.get(count, 0) + images

    def finished(self, nfe: int, images: int) -> None:
        """`images` images were completed after `nfe` evaluations each."""
        self.images += images
        self.nfe[nfe] = self.nfe.get(nfe, 0) + images

    def summary(self) -> dict[str, Any]:
        """JSON-ready; nfe_per_image is the mean."""
        total = sum(nfe * images for nfe, images in self.nfe.items())
        return {
            "images": self.images,
            "nfe_per_image": total / max(self.images, 1),
            "streams": self.streams,
            "passes": self.passes,
            "codes_fed": self.codes_fed,
            "query_seconds": round(self.seconds, 3),
            "committed": {str(k): v for k, v in sorted(self.committed.items())},
        }
