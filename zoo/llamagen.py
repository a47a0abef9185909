"""LlamaGen: classes and captions to codes of its own tokenizers (Sun et al., arXiv 2406.06525).

`generator` is the key map of its transformer, which Next-Patch Prediction, PAR and RandAR share.
"""

from __future__ import annotations

import re

import torch

from pointillist import CodeSpec
from pointillist.zoo.family import Member, Weights
from pointillist.zoo.taming import llamagen_vq

TITLE = "LlamaGen"
LICENCE = "MIT"
SOURCE = "https://github.com/FoundationVision/LlamaGen, arXiv 2406.06525"
WRAPPERS = ("model", "module", "state_dict")
DROPPED = (
    r"freqs_cis",
    r"causal_mask",
    r"layers\.\d+\.attention\.kv_cache\.[kv]_cache",
    r"quantize\.codebook_used",  # of the tokenizer: which codes occurred lately
)

HUB, CAPTIONS = "FoundationVision/LlamaGen", "peizesun/llamagen_t2i"
VOCAB, CHANNELS = 16384, 8

NAMES = (  # published -> here
    (r"tok_embeddings\.", "code_embedding."),
    (r"cls_embedding\.embedding_table\.", "class_embedding."),
    (r"cls_embedding\.(cap_proj\.)?", "captions."),
    (r"spe_tok_embeddings\.special_embeddings\.", "learned."),  # PAR
    (r"pos_instruct_embeddings$", "learned.weight"),  # RandAR
    (r"layers\.(\d+)\.attention\.wqkv\.", r"transformer.blocks.\1.attention.qkv."),
    (r"layers\.(\d+)\.attention\.wo\.", r"transformer.blocks.\1.attention.out."),
    (r"layers\.(\d+)\.feed_forward\.w1\.", r"transformer.blocks.\1.ffn.w13."),
    (r"layers\.(\d+)\.feed_forward\.", r"transformer.blocks.\1.ffn."),
    (r"layers\.", "transformer.blocks."),
    (r"norm\.", "transformer.norm."),
    (r"output\.", "head."),
)


def generator(weights: Weights, _: Weights) -> Weights:
    """Published transformer -> ours; w1 and w3 become one matrix. KeyError where only one of them is there."""
    ours = {}
    for key, value in weights.items():
        if key.endswith("feed_forward.w3.weight"):
            weights[key.replace("w3", "w1")]  # which takes it along
            continue
        if key.endswith("feed_forward.w1.weight"):
            value = torch.cat([value, weights[key.replace("w1", "w3")]])
        ours[_renamed(key)] = value
    return ours


def _renamed(key: str) -> str:
    for pattern, name in NAMES:
        if re.match(pattern, key):
            return re.sub("^" + pattern, name, key, count=1)
    return key


# ------------------------------------------------------------------------------------------------------------- members


def plane(side: int) -> CodeSpec:
    """Codes of the published tokenizers on a plane of side x side."""
    return CodeSpec(grids=((side, side),), vocab=(VOCAB,), channels=CHANNELS)


def _tokenizer(name: str, address: str, file: str, image_size: int, mult: list[int], parameters: int) -> Member:
    side = image_size // 2 ** (len(mult) - 1)
    options = {"name": "vqgan", "ch": 128, "mult": mult, "blocks": 2, "z": 256, "vocab": VOCAB, "channels": CHANNELS}
    return Member(name, "tokenizer", address, file, image_size, plane(side), options, parameters, convert=llamagen_vq)


def _generator(size: str, image_size: int, parameters: int) -> Member:
    return Member(
        name=f"llamagen-{size.lower()}-{image_size}",
        kind="generator",
        address=HUB,
        file=f"c2i_{size}_{image_size}.pt",
        image_size=image_size,
        spec=plane(image_size // 16),
        options={"model": {"size": size}, "unit": {"name": "token"}},
        parameters=parameters,
        convert=generator,
        tokenizer=f"llamagen-vq-16-{image_size}",
    )


def _captioned(stage: int, image_size: int) -> Member:
    """Captions are features of Flan-T5-XL, 120 tokens at most."""
    return Member(
        name=f"llamagen-t2i-xl-{image_size}",
        kind="generator",
        address=CAPTIONS,
        file=f"t2i_XL_stage{stage}_{image_size}.pt",
        image_size=image_size,
        spec=plane(image_size // 16),
        options={"model": {"size": "XL", "caption_length": 120, "caption_channels": 2048}, "unit": {"name": "token"}},
        parameters=777_678_080,
        convert=generator,
        tokenizer=f"llamagen-vq-16-t2i-{image_size}",
    )


VQ16, VQ8 = [1, 1, 2, 2, 4], [1, 2, 2, 4]
VQ16_PARAMETERS, VQ8_PARAMETERS = 71_883_403, 70_109_835

MEMBERS = (
    _tokenizer("llamagen-vq-16-256", HUB, "vq_ds16_c2i.pt", 256, VQ16, VQ16_PARAMETERS),
    _tokenizer("llamagen-vq-16-384", HUB, "vq_ds16_c2i.pt", 384, VQ16, VQ16_PARAMETERS),
    _tokenizer("llamagen-vq-8-256", HUB, "vq_ds8_c2i.pt", 256, VQ8, VQ8_PARAMETERS),
    _tokenizer("llamagen-vq-16-t2i-256", CAPTIONS, "vq_ds16_t2i.pt", 256, VQ16, VQ16_PARAMETERS),
    _tokenizer("llamagen-vq-16-t2i-512", CAPTIONS, "vq_ds16_t2i.pt", 512, VQ16, VQ16_PARAMETERS),
    _generator("B", 256, 110_888_448),
    _generator("L", 256, 342_910_976),
    _generator("B", 384, 110_888_448),
    _generator("L", 384, 342_910_976),
    _generator("XL", 384, 774_699_520),
    _generator("XXL", 384, 1_410_972_672),
    _generator("3B", 384, 3_096_659_200),
    _captioned(1, 256),
    _captioned(2, 512),
)
