"""Small models and plans that several tests share."""

from __future__ import annotations

from math import isqrt, prod

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.configs.options import choices, find
from pointillist.models.generator import Generator, Options
from pointillist.models.plan import COND, LEARNED, NONE, Plan
from pointillist.models.rope import rotate
from pointillist.models.units.token import positions
from pointillist.sampling.noise import Noise

GRID = CodeSpec(grids=((4, 4),), vocab=(11,), channels=4)
PYRAMID = CodeSpec(grids=((1, 1), (2, 2), (3, 3)), vocab=(11,), channels=4)


def toy_generator(plan: Plan, spec: CodeSpec, kind: type[Generator] = Generator, **options) -> Generator:
    """A random fp64 model whose head is not the zeros of initialisation, so that logits depend on everything."""
    torch.manual_seed(0)
    generator = kind(Options(**{"size": "nano", **options}), spec, plan, num_classes=5).double().eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 1.0)
    return generator


# ------------------------------------------- plans of published units, to hold the protocol to what it must carry


def par_plan(spec: CodeSpec, regions: int) -> tuple[Plan, Tensor]:
    """PAR (arXiv 2412.15119): one code of each region in turn, learned transition tokens, then all regions at once.

    Slots count in PAR's order; the second value is that order's raster slots.
    """
    side, n, length = isqrt(regions), regions, spec.length
    inner = spec.grids[0][0] // side
    order = torch.arange(length).view(side, inner, side, inner).permute(1, 3, 0, 2).flatten()
    place = torch.arange(length)
    reads = torch.where(place <= n, place - 1, torch.where(place < 2 * n, LEARNED - (place - n - 1), place - n))
    reads[0] = COND
    step = torch.where(place < n, place, n + (place - n) // n)
    grid = positions(spec)[order]
    return Plan(reads[:, None], place[:, None], reads.clamp_min(-1), grid, step), order


def randar_plan(spec: CodeSpec) -> Plan:
    """RandAR (arXiv 2412.01827): [cond, P, x, P, x, ...]: a position instruction predicts, then the code is read."""
    length = spec.length
    place, j = torch.arange(2 * length), (torch.arange(2 * length) - 1).clamp_min(0) // 2
    instruction = place % 2 == 1
    reads, predicts = torch.where(instruction, LEARNED, j), torch.where(instruction, j, NONE)
    reads[0], at, step = COND, j.clone(), torch.where(instruction, j, j + 1)
    at[0], step[0] = -1, 0
    return Plan(reads[:, None], predicts[:, None], at, positions(spec), step, causal=True)


class RandAR(Generator):
    """The instruction token is the learned vector turned by its own position; every image has an order of its own."""

    fixed_order: Tensor | None = None  # recorded generations use given orders

    def embed(self, codes: Tensor, cond: Tensor, reads: Tensor, at: Tensor) -> Tensor:
        x = super().embed(codes, cond, reads, at)
        heads = x.unflatten(-1, (self.transformer.shape.num_heads, -1))
        return torch.where(reads[..., :1] == LEARNED, rotate(heads, self.rope(at)).flatten(2), x)

    def order(self, images: Tensor, noise: Noise) -> Tensor:
        if self.fixed_order is not None:
            return self.fixed_order[images]
        return noise.uniform("order", images, torch.zeros_like(images), self.plan.num_codes).argsort(-1)


def scale_plan(spec: CodeSpec) -> Plan:
    """VAR (arXiv 2404.02905): a scale's slots together, each reading the coarser scales brought to its own grid."""
    slots = torch.arange(spec.length)
    step = torch.cat([torch.full((prod(g),), i) for i, g in enumerate(spec.grids)])
    reads = torch.where(step == 0, COND, slots)
    return Plan(reads[:, None], slots[:, None], slots, positions(spec), step)


class Scales(Generator):
    """Reads a running sum over coarser scales instead of single codes: what VAR's f_hat is to a plan."""

    def embed(self, codes: Tensor, cond: Tensor, reads: Tensor, at: Tensor) -> Tensor:
        x = self.code_embedding(codes[:, : self.plan.num_codes])  # [B, N, D]
        coarser = (self.plan.step[:, None] > self.plan.step[None, :]).to(x)
        lifted = torch.einsum("nk,bkd->bnd", coarser, x)
        read = torch.take_along_dim(lifted, reads.clamp_min(0).expand(len(codes), -1, 1), dim=1)
        return torch.where(reads == COND, self.class_embedding(cond)[:, None], read)


def patch_plan(spec: CodeSpec, side: int) -> Plan:
    """NPP (arXiv 2412.15321): a place reads the mean of a patch's codes and predicts all codes of the next patch."""
    height, width = (edge // side for edge in spec.grids[0])
    slots = torch.arange(spec.length).view(height, side, width, side).transpose(1, 2).reshape(-1, side * side)
    cond = torch.full((1, side * side), NONE)
    cond[0, 0] = COND
    patches = torch.arange(len(slots))
    grid = torch.stack([patches // width, patches % width], dim=1)
    return Plan(torch.cat([cond, slots[:-1]]), slots, patches - 1, grid, patches)


def toys() -> dict[str, Generator]:
    """One toy of every unit in models/units, found by file, and of the published plans above."""
    found = {
        name: toy_generator(unit.plan(GRID, unit.Options()), GRID)
        for name in choices("models/units")
        for unit in [find("models/units", name)]
    }
    return found | {
        "par": toy_generator(par_plan(GRID, 4)[0], GRID),
        "randar": toy_generator(randar_plan(GRID), GRID, RandAR),
        "scale": toy_generator(scale_plan(PYRAMID), PYRAMID, Scales),
        "patch": toy_generator(patch_plan(GRID, 2), GRID),
        "token, grouped queries, qk-norm": toy_generator(
            find("models/units", "token").plan(GRID, None), GRID, num_kv_heads=1, qk_norm=True
        ),
    }
