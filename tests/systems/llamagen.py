"""LlamaGen, a class to codes in raster order: with as many key heads as heads, and with fewer."""

from __future__ import annotations

import re
from functools import cache

import torch
from torch import Tensor

from pointillist.models.dist import Cut, warp
from pointillist.models.generator import Generator
from pointillist.models.plan import NONE, Plan
from pointillist.models.units import token
from tests.golden_files import Golden, close, relative, same
from tests.replay import Decoded, check_norms, forced, gradients, in_raster, network

SYSTEMS = ("llamagen_c2i", "llamagen_c2i_gqa")
INPUTS = (r"forward\.(input_codes|labels)", r"gen\.labels", r"filter\.logits")


@cache
def model(golden: Golden) -> Generator:
    return network(golden, token.Options())


def labels_of(golden: Golden, case: str) -> Tensor:
    labels = golden["forward.labels"]
    return model(golden).null(labels) if "_null" in case else labels


def check_rope(golden: Golden, case: str) -> float:
    return close(model(golden).layout.rope(torch.arange(-1, model(golden).spec.length)), golden[case], 1e-5)


# ------------------------------------------------------------------------------------------------------------ training


@torch.no_grad()
def check_logits(golden: Golden, case: str) -> float:
    return close(model(golden)(golden["forward.input_codes"], labels_of(golden, case)), golden[case])


@torch.no_grad()
def check_logits_after_the_last_code(golden: Golden, case: str) -> float:
    """A plan with one place more, which reads the last code and predicts nothing."""
    generator, codes = model(golden), golden["forward.input_codes"]
    plan, last = generator.plan, generator.plan.num_codes - 1
    longer = Plan(
        reads=torch.cat([plan.reads, torch.tensor([[last]])]),
        predicts=torch.cat([plan.predicts, torch.tensor([[NONE]])]),
        at=torch.cat([plan.at, torch.tensor([last])]),
        grid=plan.grid,
        step=torch.cat([plan.step, torch.tensor([last + 1])]),
    )
    layout = generator.new_layout(longer)
    index = layout.index()
    x = generator.embed(codes, golden["forward.labels"], index)
    x = generator.transformer(x, layout.rope(index.at), layout.attend(x.device))
    return close(generator.head(x), golden[case])


def check_loss(golden: Golden, case: str) -> None:
    relative(model(golden).loss(golden["forward.input_codes"], labels_of(golden, case))["loss"].detach(), golden[case])


def gradient(golden: Golden) -> dict[str, Tensor]:
    codes, labels = golden["forward.input_codes"], golden["forward.labels"]
    return gradients(model(golden), lambda: model(golden).loss(codes, labels)["loss"])


def check_gradients(golden: Golden, case: str) -> None:
    check_norms(golden, case, gradient(golden))


def check_gradient_of_the_last_norm(golden: Golden, case: str) -> float:
    return close(gradient(golden)["transformer.norm.weight"], golden[case], 1e-4 * float(golden[case].abs().max()))


# ------------------------------------------------------------------------------------------------------------ decoding


def check_decoding(golden: Golden, case: str) -> float:
    return close(forced(model(golden), golden["forward.input_codes"], golden["forward.labels"]), golden[case])


@cache
def generated(golden: Golden, name: str) -> Decoded:
    return in_raster(model(golden), name, golden["gen.labels"])


def check_generated_logits(golden: Golden, case: str) -> float:
    return close(generated(golden, case.rpartition(".")[0]).logits, golden[case])


def check_generated_codes(golden: Golden, case: str) -> None:
    same(generated(golden, case.rpartition(".")[0]).codes, golden[case])


def check_filter(golden: Golden, case: str) -> float:
    """Which of equal logits top-p drops is left open by the recording."""
    told, logits = golden.meta["filters"][re.fullmatch(r"filter\.(.+)\.probs", case)[1]], golden["filter.logits"]
    cut = Cut(max(told["temperature"], 1e-5), told["top_k"], told["top_p"])
    ours, theirs = warp(logits, cut).softmax(-1), golden[case]
    if told["top_p"] < 1:
        ours, theirs = by_logit(ours, logits), by_logit(theirs, logits)
    return close(ours, theirs, 1e-5)


def by_logit(probs: Tensor, logits: Tensor) -> Tensor:
    """Probabilities in the order of their logits, those of equal logits in their own order."""
    rising = probs.argsort(-1)
    return probs.gather(-1, rising.gather(-1, logits.gather(-1, rising).argsort(dim=-1, stable=True)))


CHECKS = {
    r"rope\.table": check_rope,
    r"forward(_null)?\.logits": check_logits,
    r"forward_eval_full\.logits": check_logits_after_the_last_code,
    r"train(_null)?\.loss": check_loss,
    r"train\.grad_norms": check_gradients,
    r"train\.grad_of_final_norm_weight": check_gradient_of_the_last_norm,
    r"decode\.logits": check_decoding,
    r"(gen|naive)_.*\.logits": check_generated_logits,
    r"(gen|naive)_.*\.tokens": check_generated_codes,
    r"filter\..*\.probs": check_filter,
}
