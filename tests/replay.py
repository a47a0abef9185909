"""Recorded generators, rebuilt from meta.json and the zoo's key map, and their recorded decoding, replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.models.generator import Generator, Options
from pointillist.sampling.laws import Guided
from pointillist.sampling.noise import Noise
from pointillist.sampling.schedules import Schedule
from pointillist.training.load import make_generator
from pointillist.zoo.llamagen import generator as converted
from tests.golden_files import Golden, relative

GRADIENT = 1e-4  # relative, of a gradient's norm


def spec_of(golden: Golden) -> CodeSpec:
    told = golden.meta["constructor_arguments"]
    side = isqrt(told["block_size"])
    return CodeSpec(grids=((side, side),), vocab=(told["vocab_size"],), channels=8)


def network(golden: Golden, unit: Any) -> Generator:
    """Published weights in the house transformer, with the options of a unit."""
    told = golden.meta["constructor_arguments"]
    options = Options(
        dim=told["dim"],
        depth=told["n_layer"],
        num_heads=told["n_head"],
        num_kv_heads=told.get("n_kv_head"),
    )
    built = make_generator(options, unit, spec_of(golden), told["num_classes"])
    built.load_state_dict(converted(golden.weights, {}))
    return built.eval()


# ------------------------------------------------------------------------------------------------------------ gradients


def gradients(generator: Generator, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Of every parameter, by its name here."""
    generator.zero_grad()
    loss().backward()
    return {name: p.grad for name, p in generator.named_parameters() if p.grad is not None}


def check_norms(golden: Golden, case: str, found: dict[str, Tensor]) -> None:
    """Recorded norms of every parameter's gradient, in the order of grad_param_order."""
    names = golden.meta["grad_param_order"]
    assert set(names) == set(golden.weights) and len(golden[case]) == len(names)
    for name, norm in zip(names, golden[case], strict=True):
        relative(of_published(found, name).double().norm(), norm, GRADIENT)


def of_published(ours: dict[str, Tensor], name: str) -> Tensor:
    """The part of our tensors that is the published one: w1 and w3 are halves of w13."""
    halves = [name.replace(".w3.", ".w1."), name.replace(".w1.", ".w3.")]
    (here,) = converted(dict.fromkeys(halves, torch.ones(1, 1)), {})
    return ours[here] if halves[0] == halves[1] else ours[here].chunk(2)[halves.index(name)]


# ------------------------------------------------------------------------------------------------------------- decoding


@dataclass(frozen=True)
class Decoded:
    """Greedy codes [B, N] by slot; logits [B, N, V], as guided, in the order of the passes; codes of each pass."""

    codes: Tensor
    logits: Tensor
    sizes: list[int]


@torch.no_grad()
def greedy(law: Any, labels: Tensor, guided: Callable[[int], bool] = lambda _: True) -> Decoded:
    """Decode by argmax; guided: whether the pass before which so many codes are decoded is, of a guided law."""
    plain = Guided(law.generator, Schedule(1.0, 1.0)) if isinstance(law, Guided) else law
    state = law.start(labels, torch.arange(len(labels)), Noise(0))
    logits, sizes = [], []
    for group in law.groups(state):
        logits.append((law if guided(sum(sizes)) else plain).query(state, group[:, None]).logits[:, 0])
        law.commit(state, logits[-1][:, None].argmax(-1), 1)
        sizes.append(group.shape[1])
    return Decoded(law.finish(state), torch.cat(logits, 1), sizes)


@torch.no_grad()
def forced(generator: Generator, codes: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, N, V] of decoding with the cache, in the order of the passes, if it draws these codes [B, N]."""
    state = generator.start(labels, torch.arange(len(labels)), Noise(0))
    logits = []
    for group in generator.groups(state):
        logits.append(generator.query(state, group[:, None]).logits[:, 0])
        generator.commit(state, codes.gather(1, group)[:, None], 1)
    return torch.cat(logits, 1)
