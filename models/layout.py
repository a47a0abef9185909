"""Layout: a plan on the model's device, with what the network needs of it: indices, attention, rotary rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pointillist.models.attention import Attend, planned
from pointillist.models.plan import Plan
from pointillist.models.rope import rope_table


@dataclass
class Index:
    """A plan's index tensors with a batch axis: 1 for a fixed plan, B where each image has its own order.

    reads [B | 1, L, R], predicts [B | 1, L, P], at [B | 1, L], place_of [B | 1, N]
    """

    reads: Tensor
    predicts: Tensor
    at: Tensor
    place_of: Tensor

    def window(self, places: Tensor) -> Index:
        """What the places [B | 1, W] read, predict and stand at."""
        if len(places) == 1:
            reads, predicts, at = (part[:, places[0]] for part in (self.reads, self.predicts, self.at))
            return Index(reads, predicts, at, self.place_of)
        return Index(
            reads=torch.take_along_dim(self.reads, places[..., None], dim=1),
            predicts=torch.take_along_dim(self.predicts, places[..., None], dim=1),
            at=torch.take_along_dim(self.at, places, dim=1),
            place_of=self.place_of,
        )


class Layout(nn.Module):
    """Buffers of one plan; a generator that trains on several plans holds several layouts."""

    def __init__(self, plan: Plan, attention: str, head_dim: int | None) -> None:
        super().__init__()
        self.plan, self.attention, self.head_dim = plan, attention, head_dim
        for name in ("reads", "predicts", "at", "step", "place_of", "mask", "starts", "decoded_before"):
            self.register_buffer(name, getattr(plan, name), persistent=False)
        bounds = plan.starts.tolist()
        self._open = [bool(plan.mask[a:b, :b].all()) for a, b in pairwise(bounds)]
        self._rope: dict[torch.device, Tensor] = {}
        self._attend: dict[torch.device, Attend] = {}

    def index(self, order: Tensor | None = None) -> Index:
        """The plan's index tensors, permuted by order [B, N] if there is one: what the plan says of slot j then holds
        for slot order[j]."""
        if order is None:
            return Index(self.reads[None], self.predicts[None], self.at[None], self.place_of[None])
        return Index(
            reads=_moved(self.reads, order),
            predicts=_moved(self.predicts, order),
            at=_moved(self.at, order),
            place_of=torch.empty_like(order).scatter_(1, order, self.place_of.expand(len(order), -1)),
        )

    def rope(self, at: Tensor) -> Tensor | None:
        """Rotary rows [B | 1, W, d / 2, 2] of places that stand at `at`; fp32 even where the weights are bf16. None
        without rotations, head_dim=None."""
        if self.head_dim is None:
            return None
        if at.device not in self._rope:
            nowhere = self.plan.grid.new_full((1, 2), -1)  # the last row, which at = -1 finds
            table = rope_table(torch.cat([self.plan.grid, nowhere]), self.head_dim)
            self._rope[at.device] = table.to(at.device)
        return self._rope[at.device][at]

    def attend(self, device: torch.device) -> Attend:
        """Attention over the whole sequence."""
        if device not in self._attend:
            self._attend[device] = planned(self.plan, self.attention, device)
        return self._attend[device]

    def is_open(self, first: int, m: int) -> bool:
        """Whether the places of m steps from the first on see all up to their last: those of one step do, where it has
        no order inside, or is one place."""
        return m == 1 and self._open[min(first, len(self._open) - 1)]

    def width(self, length: Tensor, m: int) -> int:
        """W, places of the widest window of m steps in a batch that has committed length [B] groups."""
        steps = self.plan.starts.diff()
        if bool((steps == steps[0]).all()):
            return m * int(steps[0])
        return int((self.starts[(length + m).clamp_max(len(steps))] - self.starts[length]).max())


def _moved(slots: Tensor, order: Tensor) -> Tensor:
    """Slots [L, ...] of the plan as slots [B, L, ...] under each image's order; negative entries stay."""
    moved = order.gather(1, slots.clamp_min(0).flatten()[None].expand(len(order), -1))
    return torch.where(slots >= 0, moved.view(-1, *slots.shape), slots)
