"""RandAR: LlamaGen in random orders, told where to predict (Pang et al., arXiv 2412.01827), on LlamaGen's tokenizer.

It adds one learned vector. RandAR-L on MaskGIT's tokenizer is published too; that tokenizer is not built here.
"""

from __future__ import annotations

from pointillist.zoo.family import Member
from pointillist.zoo.llamagen import DROPPED as DROPPED
from pointillist.zoo.llamagen import generator, plane

TITLE = "RandAR"
LICENCE = "not stated"
SOURCE = "https://github.com/ziqipang/RandAR, arXiv 2412.01827"
WRAPPERS = ("model",)


def _member(size: str, billions: str, parameters: int) -> Member:
    return Member(
        name=f"randar-{size.lower()}",
        kind="generator",
        address="ziqipang/RandAR",
        file=f"randar_{billions}_llamagen_360k_bs_1024_lr_0.0004.safetensors",
        image_size=256,
        spec=plane(16),
        options={"model": {"size": size}, "unit": {"name": "randar", "passes": 88}},
        parameters=parameters,
        convert=generator,
        tokenizer="llamagen-vq-16-256",
    )


MEMBERS = (_member("L", "0.3b", 342_912_000), _member("XL", "0.7b", 774_700_800))
