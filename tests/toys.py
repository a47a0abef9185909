"""Small models and plans that several tests share."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.configs.options import choices, find
from pointillist.models.generator import Generator, Options
from pointillist.models.plan import COND, NONE, Plan, positions
from pointillist.models.units import token

GRID = CodeSpec(grids=((4, 4),), vocab=(11,), channels=4)
PYRAMID = CodeSpec(grids=((1, 1), (2, 2), (3, 3)), vocab=(11,), channels=4)


def toy_generator(plan: Plan, spec: CodeSpec, kind: type[Generator] = Generator, unit=None, **options) -> Generator:
    """A random fp64 model whose head is not the zeros of initialisation, so that logits depend on everything."""
    torch.manual_seed(0)
    generator = kind(Options(**{"size": "nano", **options}), spec, plan, 5, unit).double().eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 1.0)
    return generator


# ------------------------------- plans of published units to come, to hold the protocol to what it must carry


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


def toy(name: str, **options) -> Generator:
    """A toy of models/units/<name>.py."""
    module = find("models/units", name)
    unit = module.Options(**options)
    return toy_generator(module.plan(GRID, unit), GRID, getattr(module, "Generator", Generator), unit)


def toys() -> dict[str, Generator]:
    """One toy of every unit in models/units, found by file, and of the published plans above."""
    found = {name: toy(name) for name in choices("models/units")}
    return found | {
        "token, hilbert": toy("token", order="hilbert"),
        "scale": toy_generator(scale_plan(PYRAMID), PYRAMID, Scales),
        "patch": toy_generator(patch_plan(GRID, 2), GRID),
        "token, grouped queries, qk-norm": toy_generator(
            token.plan(GRID, token.Options()), GRID, num_kv_heads=1, qk_norm=True
        ),
    }
