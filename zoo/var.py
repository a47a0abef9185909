"""VAR (Tian et al., arXiv 2404.02905): next-scale prediction at 256 and 512 pixels, and its tokenizer.

The generators are unit=scale on blocks with layer norms, GELU, cosine attention and AdaLN of the class. At 512 pixels
all blocks share the map from class to modulation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pointillist import CodeSpec
from pointillist.zoo.family import Member, Weights
from pointillist.zoo.taming import var_vqvae

TITLE = "VAR"
LICENCE = "MIT"
SOURCE = "https://github.com/FoundationVision/VAR, arXiv 2404.02905"
WRAPPERS = ("trainer.var_wo_ddp",)
DROPPED = (r"lvl_1L", r"attn_bias_for_masking", r"blocks\.\d+\.attn\.zero_k_bias", r"quantize\.ema_vocab_hit_SV")

SIDES = {256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}
AS_HERE = [2, 4, 0, 3, 5, 1]  # scale1, shift1, gate1, scale2, shift2, gate2 of gate1, gate2, scale1, scale2, shift1, ..
RENAMED = {
    "word_embed.weight": "word.weight",
    "word_embed.bias": "word.bias",
    "class_emb.weight": "class_embedding.weight",
    "lvl_embed.weight": "level_embedding.weight",
    "head_nm.ada_lin.1.weight": "transformer.modulate_norm.1.weight",
    "head_nm.ada_lin.1.bias": "transformer.modulate_norm.1.bias",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}
OF_BLOCKS = {
    "attn.mat_qkv.weight": "attention.qkv.weight",
    "attn.q_bias": "attention.q_bias",
    "attn.v_bias": "attention.v_bias",
    "attn.proj.weight": "attention.out.weight",
    "attn.proj.bias": "attention.out.bias",
    "ffn.fc1.weight": "ffn.w1.weight",
    "ffn.fc1.bias": "ffn.w1.bias",
    "ffn.fc2.weight": "ffn.w2.weight",
    "ffn.fc2.bias": "ffn.w2.bias",
}


def generator(weights: Weights, tokenizer_weights: Weights) -> Weights:
    """VAR's transformer of any size, and the lift of the tokenizer (as it is here) -> unit=scale.

    `pos_start` is added to the position embeddings of the first scale. Raises KeyError for a missing key.
    """
    weights = {key: value for key, value in weights.items() if key not in ("lvl_1L", "attn_bias_for_masking")}
    position, start = weights.pop("pos_1LC")[0].clone(), weights.pop("pos_start")[0]
    position[: len(start)] += start
    ours = {name: weights.pop(key) for key, name in RENAMED.items()}
    ours["position.weight"] = position
    if "shared_ada_lin.1.weight" in weights:
        ours |= _modulation(weights, "shared_ada_lin.1", "transformer.modulate.1")
    for i in range(len([key for key in weights if key.endswith(".attn.scale_mul_1H11")])):
        ours |= _block(weights, f"blocks.{i}.", f"transformer.blocks.{i}.")
    lift = {key: value for key, value in tokenizer_weights.items() if key.startswith("lift.")}
    return {**ours, "lift.codebook": tokenizer_weights["lift.codebook"], **lift, **weights}


def _block(weights: Weights, theirs: str, here: str) -> Weights:
    """Takes a block's tensors out of the weights."""
    weights.pop(f"{theirs}attn.zero_k_bias", None)
    ours = {here + name: weights.pop(theirs + key) for key, name in OF_BLOCKS.items()}
    ours[f"{here}attention.log_scale"] = weights.pop(f"{theirs}attn.scale_mul_1H11").flatten()
    if f"{theirs}ada_gss" in weights:
        return {**ours, f"{here}own": weights.pop(f"{theirs}ada_gss")[0, 0, AS_HERE]}
    return {**ours, **_modulation(weights, f"{theirs}ada_lin.1", f"{here}modulate.1")}


def _modulation(weights: Weights, theirs: str, here: str) -> Weights:
    """A map from class to six vectors, in the order of a Block here."""

    def ordered(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (6, -1))[AS_HERE].flatten(0, 1)

    return {f"{here}.{name}": ordered(weights.pop(f"{theirs}.{name}")) for name in ("weight", "bias")}


def options(depth: int, num_heads: int, dim: int, shared: bool) -> dict[str, Any]:
    """The generator of a published configuration. VAR's dropouts are 0; its drop path, a regulariser of training, is
    not here."""
    return {
        "model": {
            "dim": dim,
            "depth": depth,
            "num_heads": num_heads,
            "norm": "layer",
            "ffn": "gelu",
            "qk_norm": "l2",
            "attention_bias": "qv",
            "rope": False,
            "adaln": "shared" if shared else "block",
            "adaln_head": True,
            "head_bias": True,
            "dropout": 0.0,
            "token_dropout": 0.0,
        },
        "unit": {"name": "scale"},
    }


def _spec(image_size: int) -> CodeSpec:
    return CodeSpec(grids=tuple((side, side) for side in SIDES[image_size]), vocab=(4096,), channels=32)


def _generator(name: str, depth: int, image_size: int, parameters: int) -> Member:
    return Member(
        name=name,
        kind="generator",
        address="FoundationVision/var",
        file=f"var_d{depth}.pth",
        image_size=image_size,
        spec=_spec(image_size),
        options=options(depth, depth, 64 * depth, shared=image_size == 512),
        parameters=parameters,
        convert=generator,
        tokenizer=f"var-vqvae-{image_size}",
        lifts=True,
    )


def _tokenizer(image_size: int) -> Member:
    network = {"ch": 160, "mult": [1, 1, 2, 2, 4], "blocks": 2, "z": 32}
    return Member(
        name=f"var-vqvae-{image_size}",
        kind="tokenizer",
        address="FoundationVision/var",
        file="vae_ch160v4096z32.pth",
        image_size=image_size,
        spec=_spec(image_size),
        options={"name": "vqvae", **network, "sides": list(SIDES[image_size]), "vocab": 4096, "channels": 32},
        parameters=108_948_355,
        convert=var_vqvae,
    )


MEMBERS = (
    _generator("var-d16", 16, 256, 310_283_520),
    _generator("var-d20", 20, 256, 600_917_136),
    _generator("var-d24", 24, 256, 1_033_399_360),
    _generator("var-d30", 30, 256, 2_010_020_356),
    _generator("var-d36-512", 36, 512, 2_353_893_904),
    _tokenizer(256),
    _tokenizer(512),
)
