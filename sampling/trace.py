"""Trace: what sampling cost and what it spent, counted the same way for every sampler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SLOTS = ("verified", "rejected", "variation")


@dataclass
class Trace:
    """Counts over all batches of a run.

    A guided pass is one evaluation with `streams` = 2: both halves run together.

    passes      forward passes of the batches
    tokens_fed  places that the network read, of all images and streams: the compute, free rows of a batch included
    seconds     wall time inside `timed`, the device's work included
    steps       passes of ancestral decoding of the same unit; 0 where the sampler has no such counterpart
    nfe         images by how many passes were made while the image was unfinished
    committed   (image, pass) pairs by how many groups were kept
    drafter     passes and tokens fed of a second network that drafts, all images together, and `weight`, its parameters
                over the target's
    verified    [N] by slot: drafts that were put to the test; of these `rejected`, and `variation`, the total variation
                distance between the law of the code that came out and the target's, summed over the tests
    """

    streams: int = 1
    passes: int = 0
    tokens_fed: int = 0
    seconds: float = 0.0
    steps: int = 0
    nfe: dict[int, int] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    drafter: dict[str, float] = field(default_factory=dict)
    verified: Tensor | None = None
    rejected: Tensor | None = None
    variation: Tensor | None = None

    def query(self, law: Any, state: Any, slots: Tensor, draft: Tensor | None = None, pattern: Any = None) -> Any:
        """law.query, counted."""
        dist = law.query(state, slots, draft, pattern)
        self.streams = law.streams
        self.passes += dist.passes
        self.tokens_fed += state.fed * len(slots) * self.streams * dist.passes
        return dist

    def draft(self, law: Any, state: Any, slots: Tensor, draft: Tensor | None = None) -> Any:
        """law.query of a network that drafts, counted apart."""
        dist = law.query(state, slots, draft)
        for key, value in (("passes", 1), ("tokens_fed", state.fed * len(slots) * law.streams)):
            self.drafter[key] = self.drafter.get(key, 0) + value
        return dist

    def kept(self, groups: int, times: int) -> None:
        """`times` images kept `groups` groups from a pass before which they were unfinished."""
        self.committed[groups] = self.committed.get(groups, 0) + times

    def finished(self, nfe: int, images: int) -> None:
        """`images` images were completed after `nfe` evaluations each."""
        self.nfe[nfe] = self.nfe.get(nfe, 0) + images

    def tested(self, sums: Tensor) -> None:
        """Drafts were tested, sums [SLOTS, N] by slot; nothing is noted where none was."""
        if bool(sums[0].any()):
            for name, more in zip(SLOTS, sums.cpu(), strict=True):
                total = getattr(self, name)
                setattr(self, name, more.clone() if total is None else total + more)

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds += time.perf_counter() - begin

    def summary(self) -> dict[str, Any]:
        """JSON-ready; `restore` is the inverse. Means are over images."""
        images = max(sum(self.nfe.values()), 1)
        nfe = sum(n * count for n, count in self.nfe.items()) / images
        tested = self.verified is not None
        return {
            "images": sum(self.nfe.values()),
            "nfe_per_image": nfe,
            "seconds_per_image": self.seconds / images,
            "tokens_fed_per_image": self.tokens_fed / images,
            "step_compression": {  # ancestral's passes over this sampler's
                "mean_of_ratios": sum(c * self.steps / n for n, c in self.nfe.items()) / images if self.steps else None,
                "ratio_of_means": self.steps / nfe if self.steps and nfe else None,
            },
            "accepted": 1 - float(self.rejected.sum() / self.verified.sum()) if tested else None,
            "variation_per_image": float(self.variation.sum()) / images if tested else None,
            "draft_cost": self.drafter.get("tokens_fed", 0) * self.drafter.get("weight", 0) / max(self.tokens_fed, 1),
            "streams": self.streams,
            "passes": self.passes,
            "tokens_fed": self.tokens_fed,
            "seconds": self.seconds,
            "steps": self.steps,
            "nfe": {str(k): v for k, v in sorted(self.nfe.items())},
            "committed": {str(k): v for k, v in sorted(self.committed.items())},
            "drafter": self.drafter,
            "by_slot": {name: getattr(self, name).tolist() for name in SLOTS} if tested else {},
        }

    @classmethod
    def restore(cls, summary: dict[str, Any]) -> Trace:
        """Continue counting where a stopped run left off."""
        counts = {k: summary[k] for k in ("streams", "passes", "tokens_fed", "seconds", "steps", "drafter")}
        histograms = {k: {int(n): v for n, v in summary[k].items()} for k in ("nfe", "committed")}
        slots = {k: torch.tensor(v, dtype=torch.float64) for k, v in summary["by_slot"].items()}
        return cls(**counts, **histograms, **slots)
