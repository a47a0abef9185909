"""LlamaGen's image tokenizer: codes, vectors, images and the losses of its quantiser."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist.tokenizers import vqgan
from pointillist.zoo.taming import llamagen_vq
from tests.golden_files import Golden, close, relative, same

SYSTEMS = ("llamagen_vq", "llamagen_vq_chmult")
INPUTS = ("image", r"decode_given\.indices")


@cache
def tokenizer(golden: Golden) -> vqgan.Tokenizer:
    said = golden.meta["constructor_arguments"]
    options = vqgan.Options(
        ch=said["ch"],
        mult=said["encoder_ch_mult"],
        blocks=said.get("num_res_blocks", 2),
        z=said["z_channels"],
        vocab=said["codebook_size"],
        channels=said["codebook_embed_dim"],
    )
    made = vqgan.Tokenizer(options, golden["image"].shape[-1])
    made.load_state_dict(llamagen_vq(golden.weights, {}), strict=True)
    made.quantizer.commitment = said["commit_loss_beta"]
    return made.eval().requires_grad_(False)


def encoder_output(golden: Golden, case: str) -> float:
    return close(tokenizer(golden).encoder.network(golden["image"]), golden[case])


def quant_conv_output(golden: Golden, case: str) -> float:
    return close(tokenizer(golden).encoder(golden["image"]), golden[case])


def codes(golden: Golden, case: str) -> None:
    same(tokenizer(golden).encode(golden["image"]), golden[case].flatten(1))


def quantised(golden: Golden, case: str) -> float:
    """What the decoder sees in training: straight through, so the unit vectors of the codes up to rounding."""
    made = tokenizer(golden)
    vectors = made.quantizer(made.encoder(golden["image"]).movedim(1, -1))[0].movedim(-1, 1)
    close(made.vectors(golden["encode.indices"].flatten(1)), golden[case], atol=1e-5)
    return close(vectors, golden[case])


def latents(golden: Golden, case: str) -> float:
    return close(tokenizer(golden).vectors(golden["decode_given.indices"].flatten(1)), golden[case], atol=1e-5)


def image(golden: Golden, case: str) -> float:
    """Not clamped, as recorded; `decode` clamps."""
    made, indices = tokenizer(golden), golden[case.replace("image", "indices").replace("decode.", "encode.")].flatten(1)
    assert torch.equal(made.decode(indices), made.decoder(made.vectors(indices)).clamp(-1, 1))
    return close(made.decoder(made.vectors(indices)), golden[case])


def image_uint8(golden: Golden, case: str) -> None:
    """127.5 x + 128 without its fraction: where that is next to an integer, a value may differ by one."""
    decoded: Tensor = tokenizer(golden).decode(golden["encode.indices"].flatten(1))
    values = (127.5 * decoded + 128).clamp(0, 255).permute(0, 2, 3, 1)  # [B, S, S, 3]
    either = (values - values.round()).abs() < 127.5 * 1e-4  # what an image may differ by
    either &= (golden[case] == values.round()) | (golden[case] == values.round() - 1)
    same(torch.where(either, golden[case], values.long()), golden[case])


def reconstruction(golden: Golden, case: str) -> float:
    made = tokenizer(golden)
    return close(made.decoder(made.vectors(made.encode(golden["image"]))), golden[case])


def losses(golden: Golden, case: str) -> None:
    """Of the recorded output of the encoder: its own rounding is not what is asked here."""
    quantizer, z = tokenizer(golden).quantizer, golden["quant_conv.output"].movedim(1, -1)
    unit = F.normalize(z, dim=-1)
    found = dict(
        zip(("vq_loss", "commit_loss"), quantizer.losses(unit, quantizer.embed(quantizer.lookup(z))), strict=True)
    )
    relative(found[case.removeprefix("train.")], golden[case])
    relative(quantizer(z)[2], sum(found.values()))


CHECKS = {
    r"encoder\.output": encoder_output,
    r"quant_conv\.output": quant_conv_output,
    r"encode\.indices": codes,
    r"encode\.quantised": quantised,
    r"decode(_given)?\.image": image,
    r"decode\.image_uint8": image_uint8,
    r"forward\.reconstruction": reconstruction,
    r"decode_given\.latents": latents,
    r"train\.(vq_loss|commit_loss)": losses,
}
