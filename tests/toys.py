"""Small models that several tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.configs.options import choices, find
from pointillist.models.dist import Categorical, Chain, Dist, Flow
from pointillist.models.generator import Generator, Options
from pointillist.models.plan import Misfit, Plan
from pointillist.models.units.masked import hidden_codes
from pointillist.tokenizers.pyramid import Lift

GRID = CodeSpec(grids=((4, 4),), vocab=(11,), channels=4)
PYRAMID = CodeSpec(grids=((1, 1), (2, 2), (3, 3)), vocab=(11,), channels=4)
LATENT = CodeSpec(grids=((4, 4),), vocab=(), channels=4)
BOOKS = CodeSpec(grids=((4, 4),), vocab=(11, 7), channels=4)
OF_VAR = {
    "norm": "layer", "ffn": "gelu", "qk_norm": "l2", "attention_bias": "qv", "rope": False, "adaln": "block",
    "adaln_head": True, "head_bias": True,
}  # fmt: skip
COSINE = {"norm": "layer", "qk_norm": "l2", "attention_bias": "qkv", "adaln": "shared", "num_kv_heads": 1}
SMALLEST = {GRID: CodeSpec(((2, 2),), (3,), 1), PYRAMID: CodeSpec(((1, 1), (1, 3)), (3,), 2)}  # 81 images each


def toy_generator(plan: Plan, spec: CodeSpec, kind: type[Generator] = Generator, unit=None, **options) -> Generator:
    """A random fp64 model whose head is not the zeros of initialisation, so that logits depend on everything."""
    torch.manual_seed(0)
    generator = untrained(plan, spec, kind, unit, **options)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 1.0)
    return generator


def untrained(plan: Plan, spec: CodeSpec, kind: type[Generator] = Generator, unit=None, **options) -> Generator:
    lift = [Lift(spec)] if kind.reads_lift else []
    return kind(Options(**{"size": "nano", **options}), spec, plan, 5, unit, *lift).double().eval()


def toy(name: str, spec: CodeSpec | None = None, make=toy_generator, model: dict | None = None, **options) -> Generator:
    """A toy of models/units/<name>.py, on the first of the specs that fit it."""
    module = find("models/units", name)
    unit, kind = module.Options(**options), getattr(module, "Generator", Generator)
    for candidate in [spec] if spec else [GRID, PYRAMID, LATENT]:
        try:
            return make(module.plan(candidate, unit), candidate, kind, unit, **model or {})
        except Misfit as e:
            misfit = e
    raise misfit


def toys(make=toy_generator) -> dict[str, Generator]:
    """One toy of every unit in models/units, found by file, and variants of codes, heads and networks."""
    found = {name: toy(name, make=make) for name in choices("models/units")}
    return found | {
        "token, hilbert": toy("token", make=make, order="hilbert"),
        "token, grouped queries, qk-norm": toy("token", make=make, model={"num_kv_heads": 1, "qk_norm": True}),
        "token, shared AdaLN, cosine attention": toy("token", make=make, model=COSINE),
        "scale, VAR's blocks": toy("scale", make=make, model=OF_VAR),
        "masked, VAR's blocks": toy("masked", make=make, model=OF_VAR | {"adaln_head": False}),
        "token, two books": toy("token", BOOKS, make),
        "cell, two books chained": toy("cell", BOOKS, make, model={"books": "chain"}),
        "masked, two books": toy("masked", BOOKS, make),
        "token on a pyramid": toy("token", PYRAMID, make),
        "par, continuous": toy("par", LATENT, make, model={"flow_steps": 3}),
        "masked, continuous": toy("masked", LATENT, make, model={"flow_steps": 3}),
        "randar, four codes a pass": toy("randar", make=make, passes=6),
        "flow, scales": toy("flow", make=make, group="scale", sides=[1, 2]),
        "flow, cells": toy("flow", make=make, size=2),
        "flow, subsamples": toy("flow", make=make, group="subsample", size=2),
        "flow, image": toy("flow", make=make, group="image", model={"flow_steps": 3}),
    }


# -------------------------------------------------- the same questions to every unit, whatever its codes and its law


def random_codes(toy: Generator, batch: int = 3) -> Tensor:
    """[batch, slots, ...]: what the places of the toy hold."""
    torch.manual_seed(1)
    shape = (batch, toy.plan.num_codes)
    if not toy.spec.vocab:
        return torch.randn(*shape, toy.spec.channels, dtype=torch.float64)
    books = torch.stack([torch.randint(v, shape) for v in toy.spec.vocab], dim=-1)
    return books[..., 0] if len(toy.spec.vocab) == 1 else books


def others(toy: Generator, codes: Tensor) -> Tensor:
    """Codes that differ everywhere."""
    return (codes + 1) % torch.tensor(toy.spec.vocab) if toy.spec.vocab else codes + 1


def at(values: Tensor, slots: Tensor) -> Tensor:
    """values [B, N, ...] of slots [B, g] -> [B, g, ...]."""
    return values[torch.arange(len(slots))[:, None], slots]


def numbers(dist: Dist, codes: Tensor) -> Tensor:
    """What a law [B, m, g] is: its logits, book by book given the true codes; a flow's velocity at one point."""
    if isinstance(dist, Categorical):
        return dist.logits.masked_fill(dist.logits == float("-inf"), 0)
    if isinstance(dist, Chain):
        return torch.cat([dist._logits(codes[..., :k]) for k in range(dist.books)], dim=-1)
    assert isinstance(dist, Flow)
    return dist.velocity(somewhere(codes), 0.3)


def somewhere(codes: Tensor) -> Tensor:
    return torch.sin(torch.arange(codes[0].numel(), dtype=torch.float64)).view(codes[0].shape).expand_as(codes)


@torch.no_grad()
def teacher(toy: Generator, codes: Tensor, cond: Tensor, groups: list[Tensor], order: Tensor | None) -> list[Tensor]:
    """The numbers of every group's law by full forward passes, without caches."""
    if toy.modulated:
        return [_velocities(toy, codes, cond, group, step) for step, group in enumerate(groups)]
    found = []
    for step, group in enumerate(groups):
        if toy.any_subset:
            later = torch.zeros(codes.shape[:2], dtype=torch.bool).scatter_(1, torch.cat(groups[step:], dim=1), True)
            hidden = toy.hidden(hidden_codes(codes, later), cond)
        else:
            hidden = toy.hidden(codes, cond, order) if step == 0 else hidden
        found.append(numbers(toy.head.dist(at(hidden, group)[:, None]), at(codes, group)[:, None])[:, 0])
    return found


def _velocities(toy: Generator, codes: Tensor, cond: Tensor, group: Tensor, step: int) -> Tensor:
    """A flow's group holds what is being carried, at its time; those before are clean, those after are there too."""
    noised, t = codes.clone(), torch.zeros(len(codes), len(toy.plan.groups))
    noised[torch.arange(len(codes))[:, None], group] = somewhere(at(codes, group)[:, None])[:, 0]
    t[:, step] = 0.3
    return at(toy(noised, cond, None, t), group)
