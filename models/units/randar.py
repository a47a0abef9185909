"""RandAR (Pang et al., arXiv 2412.01827): random orders, several codes a pass.

The sequence is [cond, P(o_1), x(o_1), P(o_2), x(o_2), ..]: a position instruction P, one learned vector turned by the
rotary position it asks for, predicts the code x that is read next. Every image has an order of its own, in training a
new one each time. A parallel pass asks for several codes at once and then feeds them interleaved with their
instructions, so that the cache always holds what training shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.models import generator
from pointillist.models.dist import Categorical, Noise, at_least_fp32
from pointillist.models.generator import State
from pointillist.models.plan import COND, LEARNED, NONE, Plan, positions
from pointillist.models.rope import rotate


@dataclass
class Options:
    name: str = "randar"
    passes: int = 0  # of a whole image, cosine schedule (88 for 256 codes in the publication); 0 = one code a pass


def plan(spec: CodeSpec, options: Options) -> Plan:
    """L = 2N places in one order, which `Generator.order` permutes for each image; N steps."""
    place = torch.arange(2 * spec.length)
    j, asks = (place - 1).clamp_min(0) // 2, place % 2 == 1
    reads, predicts = torch.where(asks, LEARNED, j), torch.where(asks, j, NONE)
    at, step = j.clone(), torch.where(asks, j, j + 1)
    reads[0], at[0], step[0] = COND, -1, 0
    return Plan(reads[:, None], predicts[:, None], at, positions(spec), step, causal=True)


def pass_sizes(length: int, passes: int) -> list[int]:
    """Codes decoded in each pass: after pass c about (1 - cos(pi/2 (c + 1) / passes)) of them are there."""
    if not passes:
        return [1] * length
    sizes, done = [1], 1
    while done < length:
        target = int((1 - math.cos(math.pi / 2 * (len(sizes) + 1) / passes)) * length + 1)
        sizes.append(min(max(min(target, length) - done, 1), length - done))
        done += sizes[-1]
    return sizes


class Generator(generator.Generator):
    def __init__(self, options: generator.Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Options) -> None:
        super().__init__(options, spec, plan, num_classes, unit)
        self.sizes = pass_sizes(spec.length, unit.passes)
        self.decoded_before = torch.tensor([0, *self.sizes]).cumsum(0)

    def embed(self, codes: Tensor, cond: Tensor, reads: Tensor, at: Tensor) -> Tensor:
        x = super().embed(codes, cond, reads, at)
        heads = x.unflatten(-1, (self.transformer.shape.num_heads, -1))
        return torch.where(reads[..., :1] == LEARNED, rotate(heads, self.rope(at)).flatten(2), x)

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None) -> dict[str, Tensor]:
        """As every generator's, in random orders unless they are given."""
        if order is None:
            order = torch.rand(codes.shape, device=codes.device).argsort(-1)
        return super().loss(codes, cond, order)

    def order(self, images: Tensor, noise: Noise) -> Tensor:
        return noise.uniform("order", images, torch.zeros_like(images), self.plan.num_codes).argsort(-1)

    def groups(self, state: State) -> list[Tensor]:
        return list(state.order.split(self.sizes, dim=1))

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None) -> Categorical:
        if max(self.sizes) == 1:
            return super().query(state, slots, draft)
        assert draft is None, "several codes a pass are not verified in windows: use unit.passes=0"
        return self._ask(state, slots)

    def _ask(self, state: State, slots: Tensor) -> Categorical:
        """Feed the codes of the last pass in their training places, then one instruction for each slot."""
        batch, size, step = len(slots), slots.shape[2], state.longest
        state.slots = slots
        done, last = sum(self.sizes[:step]), self.sizes[step - 1] if step else 0
        first = 2 * (done - last + 1) if step else 0
        settled = torch.arange(first, 2 * done + 1, device=slots.device)
        places = torch.arange(first, 2 * done + 1 + size, device=slots.device)
        reads = torch.cat([state.index.reads[:, settled], slots.new_full((batch, size, 1), LEARNED)], dim=1)
        at = torch.cat([state.index.at[:, settled], slots[:, 0]], dim=1)
        causal = places[:, None] >= torch.arange(2 * done + 1 + size, device=slots.device)
        x, everyone = self.embed(state.codes, state.cond, reads, at), (batch, -1)
        mask, places = causal.expand(*everyone, -1), places.expand(*everyone)
        x = self.transformer.decode(x, self.rope(at), mask, state.caches, places)
        return Categorical(at_least_fp32(self.head(x[:, None, -size:])))
