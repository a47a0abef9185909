"""VAR's tokenizer: the quantiser over scales and what a next-scale generator reads, and, where the recording holds the
network's weights, encoder and decoder too."""

from __future__ import annotations

import re
from functools import cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist import CodeSpec
from pointillist.tokenizers import vqvae
from pointillist.tokenizers.multiscale import PHIS, Lift, quantise, residual_loss
from pointillist.tokenizers.quantizers import nearest
from pointillist.zoo.taming import var_vqvae
from tests.golden_files import Golden, close, relative, same

SYSTEMS = ("var_vqvae",)
INPUTS = (r"decode\.codes", r"encode\.image", r"phi\.input")


def sides_of(golden: Golden) -> tuple[int, ...]:
    return tuple(golden.meta["constructor"]["v_patch_nums"])


@cache
def lift(golden: Golden) -> Lift:
    sides, weights = sides_of(golden), var_vqvae(golden.weights, {})
    vocab, channels = weights["lift.codebook"].shape
    made = Lift(CodeSpec(grids=tuple((side, side) for side in sides), vocab=(vocab,), channels=channels))
    made.load_state_dict({k.removeprefix("lift."): v for k, v in weights.items() if k.startswith("lift.")})
    return made.eval().requires_grad_(False)


@cache
def tokenizer(golden: Golden, sides: tuple[int, ...] = ()) -> vqvae.Tokenizer:
    """Sizes are read off the weights; sides of the scales, where they are not the recorded ones."""
    weights, sides = golden.weights, sides or sides_of(golden)
    blocks = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", key) for key in weights]
    numbers = [(int(found[1]), int(found[2])) for found in blocks if found]
    widths = [len(weights[f"encoder.down.{i}.block.0.conv1.weight"]) for i in range(max(numbers)[0] + 1)]
    channels, z = weights["quant_conv.weight"].shape[:2]
    options = vqvae.Options(
        ch=1,
        mult=widths,
        blocks=max(number for _, number in numbers) + 1,
        z=z,
        sides=list(sides),
        vocab=len(weights["quantize.embedding.weight"]),
        channels=channels,
    )
    made = vqvae.Tokenizer(options, sides[-1] * 2 ** (len(widths) - 1))
    made.load_state_dict(var_vqvae(weights, {}), strict=True)
    return made.eval().requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------- the network


def encoder_out(golden: Golden, case: str) -> float:
    return close(tokenizer(golden).encoder.network(golden["encode.image"]), golden[case])


def features(golden: Golden, case: str) -> float | None:
    """Read by other checks; checked against the image where this was kept."""
    if "encode.image" not in golden.cases:
        return None
    return close(tokenizer(golden).encoder(golden["encode.image"]), golden[case])


def image_last(golden: Golden, case: str) -> float:
    codes = golden[case.replace("image_last", "codes")]
    return close(tokenizer(golden).decode(codes), golden[case])


def image_per_scale(golden: Golden, case: str) -> float:
    """[K, 1, 3, H, W]: of the first image, after each scale."""
    made, after = tokenizer(golden), f_hats(lift(golden), golden["decode.codes"])
    return close(torch.stack([made.decoder(f[:1]).clamp(-1, 1) for f in after]), golden[case])


# -------------------------------------------------------------------------------------------------------- the quantiser


def f_hats(made: Lift, codes: Tensor) -> list[Tensor]:
    """f_hat [B, C, H, W] after each scale."""
    return list(accumulate(made.add(codes, k) for k in range(len(made.grids))))


def codes(golden: Golden, case: str) -> None:
    """From the recorded features, and from the image where it was kept."""
    same(quantise(lift(golden), golden["encode.f"])[0], golden[case])
    if "encode.image" in golden.cases:
        same(tokenizer(golden).encode(golden["encode.image"]), golden[case])


def codes_by_cosine(golden: Golden, case: str) -> None:
    """No release looks codes up so: an option of the published class."""

    def cosine(z: Tensor, codebook: Tensor) -> Tensor:
        return nearest(F.normalize(z, dim=-1), F.normalize(codebook, dim=-1))

    same(quantise(lift(golden), golden["encode.f"], cosine)[0], golden[case])


def f_hat_of_features(golden: Golden, case: str) -> float:
    return close(quantise(lift(golden), golden["encode.f"])[1][-1], golden[case], atol=1e-5)


def straight_through(golden: Golden, case: str) -> float:
    f = golden["encode.f"]
    return close(f + (quantise(lift(golden), f)[1][-1] - f), golden[case], atol=1e-5)


def f_hat_per_scale(golden: Golden, case: str) -> float:
    made, given = lift(golden), golden["decode.codes"]
    close(made.f_hat(given), golden[case][-1], atol=1e-5)
    return close(torch.stack(f_hats(made, given)), golden[case], atol=1e-5)


def inputs(golden: Golden, case: str) -> float:
    """Teacher forcing: what a generator reads from the second scale on; at the first it reads zeros."""
    made, first = lift(golden), sides_of(golden)[0] ** 2
    found = made.inputs(golden[case.replace("var_input", "codes")])
    assert found[:, :first].abs().max() == 0
    return close(found[:, first:], golden[case], atol=1e-5)


def next_inputs(golden: Golden, case: str) -> float:
    """The same, scale by scale."""
    made = lift(golden)
    after = f_hats(made, golden["decode.codes"])[:-1]
    reads = [F.interpolate(f, size=grid, mode="area") for f, grid in zip(after, made.grids[1:], strict=True)]
    return close(torch.cat([x.flatten(2) for x in reads], 2).mT, golden[case], atol=1e-5)


def f_hat(golden: Golden, case: str) -> float:
    return close(lift(golden).f_hat(golden["decode.codes"]), golden[case], atol=1e-5)


def phi_outputs(golden: Golden, case: str) -> float:
    made = lift(golden)
    return close(torch.stack([made.smooth(golden["phi.input"], i) for i in range(PHIS)]), golden[case], atol=1e-5)


def vq_loss(golden: Golden, case: str) -> None:
    f = golden["encode.f"]
    relative(residual_loss(f, quantise(lift(golden), f)[1], golden.meta["constructor"]["beta"]), golden[case])


CHECKS = {
    r"encode\.encoder_out": encoder_out,
    r"encode\.f": features,
    r"encode\.codes": codes,
    r"encode_znorm\.codes": codes_by_cosine,
    r"encode\.fhat_last": f_hat_of_features,
    r"(encode|decode)\.var_input": inputs,
    r"(encode|decode)\.image_last": image_last,
    r"decode\.image_per_scale": image_per_scale,
    r"decode\.fhat_per_scale": f_hat_per_scale,
    r"incremental\.next_inputs": next_inputs,
    r"incremental\.fhat": f_hat,
    r"phi\.outputs": phi_outputs,
    r"train\.vq_loss": vq_loss,
    r"train\.fhat_straight_through": straight_through,
}
