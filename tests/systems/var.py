"""VAR, with an AdaLN map a block and with one for all: teacher-forced, greedy, filters; images by the VQVAE beside."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.models.dist import Cut, warp
from pointillist.models.generator import Options
from pointillist.models.units import scale
from pointillist.sampling import ancestral
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.tokenizers import vqvae
from pointillist.zoo import taming, var
from tests.golden_files import NUMBER, Golden, close, numbers, same
from tests.systems import var_vqvae

SYSTEMS = ("var", "var_shared_aln")
INPUTS = (r"forward\.(codes|labels)", r"generate.*\.labels", r"filter\.logits")


@cache
def network(golden: Golden) -> scale.Generator:
    """Built from meta.json alone; its weights are those of the published code, by the zoo's map."""
    built, tokenizer_weights = golden.meta["constructor"], taming.var_vqvae(golden.tokenizer.weights, {})
    vocab, channels = tokenizer_weights["lift.codebook"].shape
    assert built["attn_l2_norm"] and built["mlp_ratio"] == 4, "no checkpoint was published without"
    grids = tuple((side, side) for side in built["patch_nums"])
    spec = CodeSpec(grids=grids, vocab=(vocab,), channels=channels)
    options = var.options(built["depth"], built["num_heads"], built["embed_dim"], built["shared_aln"])
    unit = scale.Options()
    plan, lift = scale.plan(spec, unit), vqvae.Lift(spec)
    model = scale.Generator(Options(**options["model"]), spec, plan, built["num_classes"], unit, lift)
    model.load_state_dict(var.generator(golden.weights, tokenizer_weights))
    return model.eval().requires_grad_(False)


def tokenizer(golden: Golden) -> vqvae.Tokenizer:
    """With the generator's scales."""
    return var_vqvae.tokenizer(golden.tokenizer, tuple(golden.meta["constructor"]["patch_nums"]))


def guidance(golden: Golden, case: str) -> str:
    """The published cfg grows from 0 over the scales and counts from 0, ours from 1."""
    (cfg,) = numbers(case, rf"_cfg{NUMBER}\.") or [golden.meta["config"]["var"]["cfg"]]
    return f"1..{1 + cfg}:steps"


def labels(golden: Golden, case: str) -> Tensor:
    own = f"{case.rpartition('.')[0]}.labels"
    return golden[own if own in golden.cases else "generate.labels"]


@cache
def greedy(golden: Golden, case: str, autocast: torch.dtype | None = None) -> Tensor:
    """Codes [B, N] of the recorded network."""
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        return drawn(network(golden), golden, case)


def drawn(model: scale.Generator, golden: Golden, case: str) -> Tensor:
    """Codes [B, N] by the sampler, of the greatest logits."""
    classes = labels(golden, case)
    law, images = target(model, guidance(golden, case), temperature=0), torch.arange(len(classes))
    return ancestral.sample(law, classes, Noise(0), images, Trace(), ancestral.Options())


def logits(golden: Golden, case: str) -> float:
    given = golden["forward.labels"]
    given = torch.full_like(given, network(golden).num_classes) if case.endswith("_uncond") else given
    return close(network(golden)(golden["forward.codes"], given), golden[case])


def block_outputs(golden: Golden, case: str) -> float:
    """Of the first image."""
    model, found = network(golden), []

    def note(_: object, __: object, output: Tensor) -> None:
        found.append(output[:1])

    hooks = [block.register_forward_hook(note) for block in model.transformer.blocks]
    model(golden["forward.codes"], golden["forward.labels"])
    for hook in hooks:
        hook.remove()
    return close(torch.stack(found), golden[case])


def var_input(golden: Golden, case: str) -> float:
    """What is read at the places after the first scale's."""
    first = golden.meta["constructor"]["patch_nums"][0] ** 2
    return close(network(golden).lift.inputs(golden["forward.codes"])[:, first:], golden[case])


def codes(golden: Golden, case: str) -> None:
    same(greedy(golden, case), golden[case])


def guided_logits(golden: Golden, case: str) -> float:
    """Of every scale, given the recorded codes of those before."""
    classes, given, found = labels(golden, case), golden[case.replace("guided_logits", "codes")], []
    law = target(network(golden), guidance(golden, case))
    state = law.start(classes, torch.arange(len(classes)), Noise(0))
    for slots in law.groups(state):
        found.append(law.query(state, slots[:, None]).logits[:, 0])
        law.commit(state, given.gather(1, slots)[:, None], 1)
    return close(torch.cat(found, dim=1), golden[case])


def image(golden: Golden, case: str) -> float:
    """In [0, 1]."""
    return close((tokenizer(golden).decode(greedy(golden, case)) + 1) / 2, golden[case])


def kept(golden: Golden, case: str) -> None:
    """Which logits stay finite; in VAR 0 turns top-p off."""
    top_k, top_p = numbers(case, rf"top_k(\d+)_top_p{NUMBER}")
    cut = Cut(temperature=1.0, top_k=top_k, top_p=top_p or 1.0)
    same(warp(golden["filter.logits"], cut).isfinite(), golden[case])


CHECKS = {
    r"forward\.logits(_uncond)?": logits,
    r"forward\.block_outputs": block_outputs,
    r"forward\.var_input": var_input,
    r"generate.*\.codes": codes,
    r"generate.*\.guided_logits": guided_logits,
    r"generate.*\.image": image,
    r"filter\.top_k.*": kept,
}
