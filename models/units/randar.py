"""RandAR (Pang et al., arXiv 2412.01827): random orders, several codes a pass.

The sequence is [cond, P(o_1), x(o_1), P(o_2), x(o_2), ..]: a position instruction P, one learned vector turned by the
rotary position it asks for, predicts the code x that is read next. Every image has an order of its own, in training a
new one each time. A parallel pass asks for several codes at once and then feeds them interleaved with their
instructions, so that the cache always holds what training shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.models.any_order import AnyOrder
from pointillist.models.dist import Dist
from pointillist.models.generator import Pattern, State
from pointillist.models.layout import Index, Layout
from pointillist.models.plan import COND, LEARNED, NONE, Plan, positions
from pointillist.models.rope import rotate

SAMPLING = {"passes"}  # options that may change after training


@dataclass
class Options:
    name: str = "randar"
    passes: int = 0  # of a whole image, cosine schedule (88 for 256 codes in the publication); 0 = one code a pass

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise ValueError(f"unit.passes must be at least 0, got {self.passes}")


def plan(spec: CodeSpec, options: Options) -> Plan:
    """L = 2N places in one order, which `Generator.order` permutes for each image; N steps."""
    place = torch.arange(2 * spec.length)
    j, asks = (place - 1).clamp_min(0) // 2, place % 2 == 1
    reads, predicts = torch.where(asks, LEARNED, j), torch.where(asks, j, NONE)
    at, step = j.clone(), torch.where(asks, j, j + 1)
    reads[0], at[0], step[0] = COND, -1, 0
    return Plan(reads[:, None], predicts[:, None], at, positions(spec), step, causal=True)


class Generator(AnyOrder):
    first = 1

    def new_layout(self, plan: Plan) -> Layout:
        if not self.options.rope:
            raise ValueError("unit=randar says by rotations which code it asks for; leave model.rope=true")
        return super().new_layout(plan)

    @property
    def windows(self) -> bool:
        return super().windows and self.unit.passes in (0, self.plan.num_codes)

    def embed(self, codes: Tensor, cond: Tensor, index: Index) -> Tensor:
        x = super().embed(codes, cond, index)
        heads = x.unflatten(-1, (self.transformer.shape.num_heads, -1))
        asks = index.reads[..., :1] == LEARNED
        return torch.where(asks, rotate(heads, self.layout.rope(index.at)).flatten(2), x)

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, progress: float = 1) -> dict[str, Tensor]:
        """As every generator's, in random orders unless they are given."""
        if order is None:
            order = torch.rand(codes.shape[:2], device=codes.device).argsort(-1)
        return super().loss(codes, cond, order)

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None, pattern: Pattern | None = None) -> Dist:
        if max(self.sizes(state)) == 1:
            return super().query(state, slots, draft, pattern)
        if draft is not None:
            raise ValueError("randar verifies no windows of passes with several codes; use unit.passes=0 and no mask")
        return self._ask(state, slots)

    def _ask(self, state: State, slots: Tensor) -> Dist:
        """Feed the codes of the last pass in their training places, then one instruction for each slot."""
        batch, size, step, sizes = len(slots), slots.shape[2], state.longest, self.sizes(state)
        state.slots = slots
        done, last = sum(sizes[:step]), sizes[step - 1] if step else 0
        first = 2 * (done - last + 1) if step else 0
        settled = state.index.window(torch.arange(first, 2 * done + 1, device=slots.device)[None])
        places = torch.arange(first, 2 * done + 1 + size, device=slots.device)
        index = Index(
            reads=torch.cat([settled.reads.expand(batch, -1, -1), slots.new_full((batch, size, 1), LEARNED)], dim=1),
            predicts=torch.cat([settled.predicts.expand(batch, -1, -1), slots[:, 0, :, None]], dim=1),
            at=torch.cat([settled.at.expand(batch, -1), slots[:, 0]], dim=1),
            place_of=state.index.place_of,
        )
        causal = places[:, None] >= torch.arange(2 * done + 1 + size, device=slots.device)
        x, state.fed, until = self.embed(state.codes, state.cond, index), len(places), causal.shape[1]
        rope = self.layout.rope(index.at)
        x = self.transformer.decode(x, rope, causal[None], state.caches, places[None], until, state.modulations)
        return self.head.dist(x[:, None, -size:])
