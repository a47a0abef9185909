"""Tally: counts of images under way. The trace gets an image's when it is finished, so an interrupted run counts no
image twice and none in part; passes and places read are the batch's, and the trace counts them as they are spent."""

from __future__ import annotations

import torch
from torch import Tensor

from pointillist.sampling.drafts import Verdict
from pointillist.sampling.trace import SLOTS, Trace


class Tally:
    """
    kept    [B, window + 2] passes of each image by how many groups were kept
    tested  [B, SLOTS, N + 1] sums by slot, fp64; the last slot takes padding
    """

    def __init__(self, images: Tensor, window: int, length: int) -> None:
        self.kept = images.new_zeros(len(images), window + 2)
        self.tested = images.new_zeros(len(images), len(SLOTS), length + 1, dtype=torch.float64)

    def count(self, verdict: Verdict, slots: Tensor, keep: Tensor, live: Tensor) -> None:
        """A pass over slots [B, m, g] kept keep [B] groups; of the unfinished images live [B], what was tested."""
        self.kept.scatter_add_(1, keep[:, None], live.long()[:, None])
        if not verdict.kept.shape[1]:
            return
        slots = slots[:, :-1]
        tested = verdict.reached[..., None] & (slots >= 0) & live[:, None, None]  # [B, L, g]
        rejected, spent = (~verdict.kept).double(), verdict.variation
        rejected = rejected.amax(-1) if rejected.ndim > 3 else rejected  # a code is wrong if one of its books is
        spent = torch.zeros_like(rejected) if spent is None else spent
        spent = spent.sum(-1).clamp_max(1) if spent.ndim > 3 else spent  # books are independent
        sums = torch.stack([tested.double(), *(torch.where(tested, x.double(), 0) for x in (rejected, spent))], 1)
        places = (slots % self.tested.shape[2]).flatten(1)[:, None].expand(-1, len(SLOTS), -1)
        self.tested.scatter_add_(2, places, sums.flatten(2))

    def report(self, trace: Trace, rows: Tensor, passes: Tensor) -> None:
        """Images rows [b] are finished, after passes [b] each."""
        for groups, times in enumerate(self.kept[rows].sum(0).tolist()):
            if times:
                trace.kept(groups, times)
        for number, times in zip(*(x.tolist() for x in passes.unique(return_counts=True)), strict=True):
            trace.finished(number, times)
        trace.tested(self.tested[rows].sum(0)[:, :-1])

    def select(self, rows: Tensor) -> None:
        """Go on with some of the images."""
        self.kept, self.tested = self.kept[rows], self.tested[rows]

    def refill(self, rows: Tensor) -> None:
        """Other images are in rows [b] now."""
        self.kept[rows], self.tested[rows] = 0, 0
