"""RandAR in recorded orders. Recorded logits stand in the order of the steps, ours of teacher forcing by slot."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pointillist.models.generator import Generator
from pointillist.models.orders import pass_sizes
from pointillist.models.units import randar
from pointillist.sampling.laws import Ordered, target
from tests.golden_files import NUMBER, Golden, close, numbers, relative, same
from tests.replay import Decoded, check_norms, gradients, greedy, network

SYSTEMS = ("randar",)
INPUTS = (r"forward\.(raster_codes|labels|token_order)", r"gen\.(labels|token_order)")


@cache
def model(golden: Golden, passes: int = 0) -> Generator:
    return network(golden, randar.Options(passes=passes))


def teacher(golden: Golden, case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, labels and orders."""
    codes, labels, order = (golden[f"forward.{name}"] for name in ("raster_codes", "labels", "token_order"))
    raster = torch.arange(codes.shape[1]).expand_as(order)
    return codes, model(golden).null(labels) if "_null" in case else labels, raster if "_raster" in case else order


def check_rope(golden: Golden, case: str) -> float:
    return close(model(golden).layout.rope(torch.arange(-1, model(golden).spec.length)), golden[case], 1e-5)


@torch.no_grad()
def check_instructions(golden: Golden, case: str) -> float:
    """What the places read that ask for a position: every second one."""
    codes, labels, order = teacher(golden, case)
    return close(model(golden).embed(codes, labels, model(golden).layout.index(order))[:, 1::2], golden[case], 1e-5)


@torch.no_grad()
def check_logits(golden: Golden, case: str) -> float:
    codes, labels, order = teacher(golden, case)
    return close(torch.take_along_dim(model(golden)(codes, labels, order), order[..., None], dim=1), golden[case])


def check_loss(golden: Golden, case: str) -> None:
    relative(model(golden).loss(*teacher(golden, case))["loss"].detach(), golden[case])


def check_gradients(golden: Golden, case: str) -> None:
    generator, told = model(golden), teacher(golden, case)
    check_norms(golden, case, gradients(generator, lambda: generator.loss(*told)["loss"]))


@cache
def generated(golden: Golden, name: str) -> Decoded:
    """gen_seq: one code a pass; gen_par: several. cfg1to4 grows with the codes decoded before a pass."""
    passes = numbers(name, r"_par(\d+)_") or [golden.meta["gen_parallel_steps"] if "_par" in name else 0]
    ends = numbers(name, f"_cfg{NUMBER}to{NUMBER}") or numbers(name, f"_cfg{NUMBER}") or [1.0]
    law = target(model(golden, int(passes[0])), f"{ends[0]}..{ends[-1]}" if ends[-1] > 1 else 1)
    given = Ordered(law, golden["gen.token_order"])
    return greedy(given, golden["gen.labels"])


def check_steps(golden: Golden, case: str) -> None:
    same(torch.tensor(generated(golden, case.rpartition(".")[0]).sizes), golden[case])


def check_generated_logits(golden: Golden, case: str) -> float:
    return close(generated(golden, case.rpartition(".")[0]).logits, golden[case])


def check_generated_codes(golden: Golden, case: str) -> None:
    same(generated(golden, case.rpartition(".")[0]).codes, golden[case])


def check_schedule(golden: Golden, case: str) -> None:
    (length,), (passes,) = numbers(case, r"block(\d+)"), numbers(case, r"steps(\d+)")
    same(torch.tensor(pass_sizes(int(length), int(passes), first=1)), golden[case])


CHECKS = {
    r"rope\.table": check_rope,
    r"pos_instruct\.tokens": check_instructions,
    r"forward(_null|_raster_order)?\.logits": check_logits,
    r"train(_null)?\.loss": check_loss,
    r"train\.grad_norms": check_gradients,
    r"gen_.*\.steps": check_steps,
    r"gen_.*\.logits": check_generated_logits,
    r"gen_.*\.tokens_raster": check_generated_codes,
    r"schedule\.block\d+_steps\d+": check_schedule,
}
