"""Published weights of the networks of tokenizers/taming.py, in the names they have here.

LlamaGen and VAR name the parts of one network differently: LlamaGen numbers the levels of both halves as they run, VAR
those of the decoder from the finest; VAR has one convolution for the queries, keys and values of an attention, and both
have 1x1 convolutions where linear layers stand here. Keys of unknown parts stay as they are, for a strict load to name.
"""

from __future__ import annotations

import re

from torch import Tensor

from pointillist.zoo.family import Weights

ENDS = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
RESAMPLE = {"conv": "conv"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
MIDDLE = {  # LlamaGen's names, VAR's
    "0": "resnets.0", "1": "attentions.0", "2": "resnets.1",
    "block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1",
}  # fmt: skip
KINDS = {
    "res": "resnets", "block": "resnets", "attn": "attentions",
    "downsample": "downsamplers", "upsample": "upsamplers",
}  # fmt: skip
PHI = "quantize.quant_resi.qresi_ls."


def llamagen_vq(weights: Weights, _: Weights) -> Weights:
    """LlamaGen's VQ-16 and VQ-8 -> tokenizers/vqgan.py. Raises KeyError without codebook or an end of the network."""
    weights = {key: value for key, value in weights.items() if key != "quantize.codebook_used"}
    return {"quantizer.rows": weights.pop("quantize.embedding.weight"), **network(weights)}


def var_vqvae(weights: Weights, _: Weights) -> Weights:
    """VAR's VQVAE of any schedule of scales -> tokenizers/vqvae.py.

    Raises KeyError without codebook, one of the four convolutions of the scales or an end of the network. The
    quantiser's weights alone, without any of the network, give those of the `Lift`. `count` starts anew: only training
    reads it, and VAR's own counts depend on the schedule.
    """
    weights = {key: value for key, value in weights.items() if key != "quantize.ema_vocab_hit_SV"}
    codebook = weights.pop("quantize.embedding.weight")
    ours = {"lift.codebook": codebook, "count": codebook.new_ones(len(codebook))}
    for phi in range(4):
        for name in ("weight", "bias"):
            ours[f"lift.phi.{phi}.{name}"] = weights.pop(f"{PHI}{phi}.{name}")
    return {**ours, **(network(weights) if weights else {})}


def network(weights: Weights) -> Weights:
    """Encoder, decoder and the convolutions next to the quantiser. Raises KeyError if one of their ends is missing;
    what lies between, as many levels and blocks as there are, is for the strict load to miss."""
    ends = [f"{half}.{end}" for half in ("encoder", "decoder") for end in ENDS]
    needed = [f"{part}.{name}" for part in (*ends, "quant_conv", "post_quant_conv") for name in ("weight", "bias")]
    if missing := [key for key in needed if key not in weights]:
        raise KeyError(missing[0])
    ups = [int(found[1]) for key in weights if (found := re.match(r"decoder\.up\.(\d+)\.", key))]
    ours: Weights = {}
    for key, value in weights.items():
        ours |= _renamed(key, value, max(ups, default=0))
    return ours


def _renamed(key: str, value: Tensor, coarsest: int) -> Weights:
    """What a published key is here; coarsest is the highest number that VAR gives to a level of the decoder."""
    if found := re.fullmatch(r"(post_)?quant_conv\.(weight|bias)", key):
        return {f"{'decoder' if found[1] else 'encoder'}.{key}": value}
    if not (found := re.fullmatch(r"(encoder|decoder)\.(.+)\.(weight|bias)", key)):
        return {key: value}
    half, path, name = found.groups()
    if path in ENDS:
        return {f"{half}.network.{ENDS[path]}.{name}": value}
    place, part = _place(half, path, coarsest)
    prefix = f"{half}.network.{place}"
    if "attentions" not in place:
        known = BLOCK if "resnets" in place else RESAMPLE
        return {f"{prefix}.{known[part]}.{name}": value} if part in known else {key: value}
    if part == "qkv":  # copies: safetensors does not write tensors that share memory
        thirds = [chunk.clone() for chunk in value.chunk(3)]
        return {f"{prefix}.to_{x}.{name}": _linear(third) for x, third in zip("qkv", thirds, strict=True)}
    return {f"{prefix}.{ATTENTION[part]}.{name}": _linear(value)} if part in ATTENTION else {key: value}


def _place(half: str, path: str, coarsest: int) -> tuple[str, str]:
    """Where a published path inside encoder or decoder lies here, and its last part; both empty if it is unknown."""
    if (found := re.fullmatch(r"mid\.(\w+)\.(\w+)", path)) and found[1] in MIDDLE:
        return f"mid_block.{MIDDLE[found[1]]}", found[2]
    if not (found := re.fullmatch(r"(conv_blocks|down|up)\.(\d+)\.(res|block|attn|downsample|upsample)\.(.+)", path)):
        return "", ""
    order, level, kind, rest = found[1], int(found[2]), KINDS[found[3]], found[4]
    levels = "down_blocks" if half == "encoder" else "up_blocks"
    place = f"{levels}.{coarsest - level if order == 'up' else level}.{kind}"
    number, _, part = rest.partition(".") if "samplers" not in kind else ("0", "", rest)
    return f"{place}.{number}", part


def _linear(weight: Tensor) -> Tensor:
    """The weight of a 1x1 convolution [out, in, 1, 1] as that of a linear layer; others unchanged."""
    return weight.flatten(1) if weight.ndim == 4 else weight
