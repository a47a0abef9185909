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
from pointillist.sampling.laws import Guided, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.schedules import Schedule
from pointillist.training.load import make_generator
from pointillist.zoo.llamagen import generator as converted
from tests.golden_files import NUMBER, Golden, numbers, relative

GRADIENT, NO_GRADIENT = 1e-4, 1e-7  # of a gradient's norm: relative, and what counts as none


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
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in generator.named_parameters()}


def check_norms(golden: Golden, case: str, found: dict[str, Tensor]) -> None:
    """Recorded norms of every parameter's gradient, in the order of grad_param_order."""
    names = golden.meta["grad_param_order"]
    assert {of_here(name) for name in names} == set(found), "not every parameter has a recorded norm"
    for name, norm in zip(names, golden[case], strict=True):
        relative(of_published(found, name).double().norm(), norm, GRADIENT, NO_GRADIENT)


def of_here(name: str) -> str:
    """What a published parameter is called here."""
    (here,) = converted(dict.fromkeys(halves(name), torch.ones(1, 1)), {})
    return here


def halves(name: str) -> list[str]:
    return [name.replace(".w3.", ".w1."), name.replace(".w1.", ".w3.")]


def of_published(ours: dict[str, Tensor], name: str) -> Tensor:
    """The part of our tensors that is the published one: w1 and w3 are halves of w13."""
    both, whole = halves(name), ours[of_here(name)]
    return whole if both[0] == both[1] else whole.chunk(2)[both.index(name)]


# ------------------------------------------------------------------------------------------------------------- decoding


def guidance_of(name: str) -> float:
    """gen_cfg4: 4, gen_cfg1.5 or gen_cfg1p5: 1.5, gen_nocfg: 1. The published samplers guide above 1 alone."""
    return max([1.0, *numbers(name, f"_cfg{NUMBER}")])


def interval_of(name: str, length: int) -> tuple[float, float]:
    """Shares of the codes between which there is guidance: with cfg_interval 3 at the first code and four more."""
    last = numbers(name, r"_int(\d+)") or [length]
    return 0.0, min((last[0] + 1.5) / length, 1.0)  # of the codes before the last guided one, and a half


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


def in_raster(generator: Generator, name: str, labels: Tensor) -> Decoded:
    """The greedy run of a name such as gen_nocfg, gen_cfg4 or gen_cfg4_int3."""
    interval = interval_of(name, generator.spec.length)
    return greedy(target(generator, guidance_of(name), guidance_interval=interval), labels)


@torch.no_grad()
def forced(generator: Generator, codes: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, N, V] of decoding with the cache, in the order of the passes, if it draws these codes [B, N]."""
    state = generator.start(labels, torch.arange(len(labels)), Noise(0))
    logits = []
    for group in generator.groups(state):
        logits.append(generator.query(state, group[:, None]).logits[:, 0])
        generator.commit(state, codes.gather(1, group)[:, None], 1)
    return torch.cat(logits, 1)
