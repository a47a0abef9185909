"""VAR's own sampling and ours, of the same weights, by the recipe of a published row: for benchmarks/zoo.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, medians, table
from peers import var_networks
from torch import Tensor

from pointillist.configs.options import find
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.schedules import Schedule
from pointillist.sampling.trace import Trace
from pointillist.training.precision import cast, cast_decoder, full_float32
from pointillist.training.request import Request

THEIRS = {"VAR fp32": False, "VAR autocast bf16": True}
PARTS = ("codes", "pixels")
Calls = dict[str, Callable[[], Any]]


def compare(path: str, name: str, asked: Request, precisions: list[str], images: int, rounds: int) -> None:
    """Print the table of one row, and how far our logits and pixels are from theirs."""
    vae, transformer, make = var_networks(path, name)
    cond, calls = torch.arange(images) % transformer.num_classes, {}
    with torch.inference_mode(), full_float32():
        for contender, bf16 in THEIRS.items():
            calls |= {f"{contender} {part}": f for part, f in their_calls(vae, transformer, asked, cond, bf16).items()}
        lines = []
        for precision in precisions:
            tokenizer, generator = make()
            cast(generator, precision, torch.device("cpu"), rows=2 * images)
            cast_decoder(tokenizer, "fp32" if precision == "fp32" else "bf16")
            calls |= {f"ours {precision} {p}": f for p, f in our_calls(tokenizer, generator, asked, cond).items()}
            lines.append(f"ours {precision}: {distances(vae, transformer, tokenizer, generator)}")
        middle = medians(interleaved(calls, rounds))
    print("\n" + seconds_table(name, middle, images), *lines, sep="\n", flush=True)


def their_calls(vae: Any, transformer: Any, asked: Request, cond: Tensor, bf16: bool) -> Calls:
    """VAR's own code in its two parts. Its guidance is what is added to 1 at the last scale."""
    f_hat = torch.randn(len(cond), vae.Cvae, *[transformer.patch_nums[-1]] * 2)
    added = Schedule.parse("guidance", asked.guidance, 0).last - 1
    cuts = {"top_k": int(asked.top_k), "top_p": float(asked.top_p)}

    def codes() -> None:
        vae.fhat_to_img = lambda f_hat: f_hat  # pixels are measured alone
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            transformer.autoregressive_infer_cfg(len(cond), cond, g_seed=0, cfg=added, **cuts)
        del vae.fhat_to_img

    def pixels() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            vae.fhat_to_img(f_hat)

    return {"codes": codes, "pixels": pixels}


def our_calls(tokenizer: Any, generator: Any, asked: Request, cond: Tensor) -> Calls:
    law = target(generator, asked.guidance, asked.temperature, asked.top_k, asked.top_p)
    sampler, images = find("sampling", asked.sampler.name), torch.arange(len(cond))
    codes = torch.randint(tokenizer.spec.vocab[0], (len(cond), tokenizer.spec.length))
    return {
        "codes": lambda: sampler.sample(law, cond, Noise(0), images, Trace(), asked.sampler),
        "pixels": lambda: tokenizer.decode(codes),
    }


def distances(vae: Any, transformer: Any, tokenizer: Any, generator: Any) -> str:
    """Of teacher-forced logits and of pixels, from theirs in fp32."""
    codes = torch.randint(
        tokenizer.spec.vocab[0], (1, tokenizer.spec.length), generator=torch.Generator().manual_seed(1)
    )
    scales = list(codes.split([h * w for h, w in tokenizer.spec.grids], 1))
    transformer.cond_drop_rate = 0
    theirs = transformer(torch.tensor([3]), vae.quantize.idxBl_to_var_input(scales))
    logits = float((generator(codes, torch.tensor([3])).float() - theirs).abs().max())
    pixels = float((tokenizer.decode(codes) - vae.idxBl_to_img(scales, same_shape=True, last_one=True)).abs().max())
    return f"logits within {logits:.2g} of VAR's (deviation {float(theirs.std()):.2g}), pixels within {pixels:.2g}"


def seconds_table(name: str, middle: dict[str, float], images: int) -> str:
    contenders = list(dict.fromkeys(key.rpartition(" ")[0] for key in middle))
    total = {who: sum(middle[f"{who} {part}"] for part in PARTS) for who in contenders}
    rows = []
    for who in contenders:
        cells = [f"{middle[f'{who} {part}'] / images:.3f}" for part in PARTS] + [f"{total[who] / images:.3f}"]
        for peer in THEIRS:
            cells += [f"{middle[f'{peer} {part}'] / middle[f'{who} {part}']:.2f}" for part in PARTS]
            cells += [f"{total[peer] / total[who]:.2f}"]
        rows.append([who, *cells])
    ratios = [f"x {peer}: {what}" for peer in THEIRS for what in (*PARTS, "both")]
    return table([f"{name}, batch {images}", "codes, s an image", "pixels, s", "both, s", *ratios], rows)
