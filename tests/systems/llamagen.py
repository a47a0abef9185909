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
from pointillist.sampling.laws import target
from tests.golden_files import Golden, close, numbers, relative, same
from tests.replay import Decoded, check_norms, forced, gradients, greedy, network

SYSTEMS = ("llamagen_c2i", "llamagen_c2i_gqa")
INPUTS = (r"forward\.(input_codes|labels)", r"gen\.labels", r"filter\.logits")
TIES = 4  # the row of filter.logits that holds many


@cache
def model(golden: Golden) -> Generator:
    return network(golden, token.Options())


def labels_of(golden: Golden, case: str) -> Tensor:
    labels = golden["forward.labels"]
    return model(golden).null(labels) if "_null" in case else labels


def check_rope(golden: Golden, case: str) -> float:
    return close(model(golden).layout.rope(torch.arange(-1, model(golden).spec.length)), golden[case], 1e-6)


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
    return close(gradient(golden)["transformer.norm.weight"], golden[case], 1e-5)


# ------------------------------------------------------------------------------------------------------------ decoding


def check_decoding(golden: Golden, case: str) -> float:
    return close(forced(model(golden), golden["forward.input_codes"], golden["forward.labels"]), golden[case])


@cache
def generated(golden: Golden, name: str) -> Decoded:
    """gen_nocfg, gen_cfg4, gen_cfg4_int3: with cfg_interval 3 the first token and four more are guided."""
    generator = model(golden)
    scale = numbers(name, r"_cfg(\d+(?:\.\d+)?)") or [1.0]
    last = numbers(name, r"_int(\d+)") or [generator.spec.length]
    share = min((last[0] + 1.5) / generator.spec.length, 1.0)  # of the codes before the last guided one, and a half
    return greedy(target(generator, scale[0], guidance_interval=(0, share)), golden["gen.labels"])


def check_generated_logits(golden: Golden, case: str) -> float:
    return close(generated(golden, case.rpartition(".")[0]).logits, golden[case])


def check_generated_codes(golden: Golden, case: str) -> None:
    same(generated(golden, case.rpartition(".")[0]).codes, golden[case])


def check_filter(golden: Golden, case: str) -> float:
    """Which of equal logits top-p drops is left open by the recording: there, as sorted probabilities."""
    told = golden.meta["filters"][re.fullmatch(r"filter\.(\w+)\.probs", case)[1]]
    cut = Cut(told["temperature"], told["top_k"], told["top_p"])
    ours, theirs = warp(golden["filter.logits"], cut).softmax(-1), golden[case].clone()
    if told["top_p"] < 1:
        ours[TIES], theirs[TIES] = ours[TIES].sort().values, theirs[TIES].sort().values
    return close(ours, theirs, 1e-6)


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
