"""AnyOrder: generators in which every image may be decoded in an order of its own, several codes a pass."""

from __future__ import annotations

import torch
from torch import Tensor

from pointillist.models.dist import Noise
from pointillist.models.generator import Generator, State, steps_done
from pointillist.models.orders import pass_sizes


class AnyOrder(Generator):
    """A unit with the option `passes`: random orders, cosine schedule; codes given beforehand are one group."""

    any_order = True
    first: int | None = None  # codes of the first pass, where that does not follow the schedule

    def sizes(self, state: State) -> list[int]:
        """Codes of each pass."""
        given = [state.known] if state.known else []
        return given + pass_sizes(self.plan.num_codes - state.known, self.unit.passes, self.first)

    def order(self, images: Tensor, noise: Noise) -> Tensor:
        return noise.uniform("order", images, torch.zeros_like(images), self.plan.num_codes).argsort(-1)

    def groups(self, state: State) -> list[Tensor]:
        return list(state.order.split(self.sizes(state), dim=1))

    def decoded(self, state: State, m: int) -> Tensor:
        before = torch.tensor([0, *self.sizes(state)], device=state.length.device).cumsum(0)
        group = state.length[:, None] + torch.arange(m, device=state.length.device)
        return before[group.clamp_max(len(before) - 1)]

    def step_share(self, state: State, m: int) -> Tensor:
        return steps_done(state.length, m, len(self.sizes(state)))
