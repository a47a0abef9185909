"""LlamaGen text-to-image: captions in front of the codes, hidden where they are padded."""

from __future__ import annotations

from functools import cache
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist import CodeSpec
from pointillist.models.condition import left_padded
from pointillist.models.generator import Generator, Options
from pointillist.models.units import token
from pointillist.zoo import llamagen
from tests.golden_files import Golden, close, relative, same
from tests.replay import Decoded, check_norms, gradients, in_raster

SYSTEMS = ("llamagen_t2i", "llamagen_t2i_120")
INPUTS = (r"captions\.right_(padded|mask)", r"forward\.input_codes", r"train_valid\.valid")


@cache
def model(golden: Golden) -> Generator:
    a = golden.meta["constructor_arguments"]
    side = isqrt(a["block_size"])
    spec = CodeSpec(grids=((side, side),), vocab=(a["vocab_size"],), channels=8)
    unit = token.Options()
    options = Options(
        dim=a["dim"],
        depth=a["n_layer"],
        num_heads=a["n_head"],
        num_kv_heads=a.get("n_kv_head"),
        caption_length=a["cls_token_num"],
        caption_channels=a["caption_dim"],
        dropout=0.0,
        token_dropout=0.0,
        label_dropout=0.0,
    )
    generator = Generator(options, spec, token.plan(spec, unit), 0, unit)
    generator.load_state_dict(llamagen.generator(golden.weights, {}))
    return generator.train()


def told(golden: Golden, masked: bool = True) -> tuple[Generator, Tensor]:
    """The generator that has been given the recorded captions as the encoder returns them, and their numbers.

    Without a mask the zeros of the padding are seen.
    """
    generator = model(golden)
    if masked:
        generator.caption(golden["captions.right_padded"], golden["captions.right_mask"])
    else:
        generator.caption(golden["captions.left_padded"])
    return generator, torch.arange(len(golden["captions.left_padded"]))


# ------------------------------------------------------------------------------------------------- captions and places


def check_left_padded(golden: Golden, case: str) -> float:
    ours, _ = left_padded(golden["captions.right_padded"], golden["captions.right_mask"])
    return close(ours, golden[case], 0)


def check_left_mask(golden: Golden, case: str) -> None:
    same(left_padded(golden["captions.right_padded"], golden["captions.right_mask"])[1], golden[case])


def check_null(golden: Golden, case: str) -> float:
    return close(model(golden).captions.uncond_embedding, golden[case], 0)


def check_projection(golden: Golden, case: str) -> float:
    generator, cond = told(golden)
    return close(generator.captions(cond), golden[case])


def check_rope(golden: Golden, case: str) -> float:
    layout = model(golden).layout
    at = torch.cat([layout.at, torch.tensor([layout.plan.num_codes - 1])])  # nothing reads the last code
    return close(layout.rope(at), golden[case], 1e-5)


def check_mask(golden: Golden, case: str) -> None:
    """Of all places that are fed; the last code's, which sees what is no padding and none sees, is not."""
    generator, cond = told(golden)
    length = generator.plan.length
    places = torch.arange(length).expand(len(cond), -1)
    every = F.pad(generator.visible(cond, places, length).long(), (0, 1))
    last = F.pad(golden["captions.left_mask"], (0, generator.plan.num_codes), value=1)
    same(torch.cat([every, last[:, None]], dim=1)[:, None], golden[case])


# ------------------------------------------------------------------------------------------------------------ training


def check_logits(golden: Golden, case: str) -> float:
    generator, cond = told(golden, "nomask" not in case)
    cond = generator.null(cond) if "null" in case else cond
    return close(generator(golden["forward.input_codes"], cond), golden[case])


def check_loss(golden: Golden, case: str) -> None:
    generator, cond = told(golden)
    cond = generator.null(cond) if "null" in case else cond
    relative(generator.loss(golden["forward.input_codes"], cond)["loss"].detach(), golden[case])


@torch.no_grad()
def check_loss_of_valid(golden: Golden, case: str) -> None:
    """The mean over the images that are valid."""
    generator, cond = told(golden)
    codes, valid = golden["forward.input_codes"], golden["train_valid.valid"]
    nats = generator.head.loss(generator.hidden(codes, cond), codes)  # [B, N]
    relative((nats * valid[:, None]).sum() / (valid.sum().clamp_min(1) * codes.shape[1]), golden[case])


def check_gradients(golden: Golden, case: str) -> None:
    generator, cond = told(golden)
    codes = golden["forward.input_codes"]
    check_norms(golden, case, gradients(generator, lambda: generator.loss(codes, cond)["loss"]))


# ---------------------------------------------------------------------------------------------------------- generation


@cache
def generated(golden: Golden, run: str) -> Decoded:
    generator, cond = told(golden, "nomask" not in run)
    return in_raster(generator, run, cond)


def check_tokens(golden: Golden, case: str) -> None:
    same(generated(golden, case.rpartition(".")[0]).codes, golden[case])


def check_generated_logits(golden: Golden, case: str) -> float:
    return close(generated(golden, case.rpartition(".")[0]).logits, golden[case])


CHECKS = {
    r"captions\.left_padded": check_left_padded,
    r"captions\.left_mask": check_left_mask,
    r"uncond_embedding": check_null,
    r"cap_proj\.output": check_projection,
    r"rope\.table": check_rope,
    r"forward\.attn_mask": check_mask,
    r"forward(_null|_nomask)?\.logits": check_logits,
    r"train(_null)?\.loss": check_loss,
    r"train_valid\.loss": check_loss_of_valid,
    r"train\.grad_norms": check_gradients,
    r"gen_.*\.tokens": check_tokens,
    r"gen_.*\.logits": check_generated_logits,
}
