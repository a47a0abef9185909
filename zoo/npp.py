"""Next-Patch Prediction: LlamaGen trained on coarse patches first (Pang et al., arXiv 2412.15321)."""

from __future__ import annotations

from pointillist.zoo.family import Member
from pointillist.zoo.llamagen import DROPPED as DROPPED
from pointillist.zoo.llamagen import generator, plane

TITLE = "Next-Patch Prediction"
LICENCE = "not stated"
SOURCE = "https://github.com/PKU-YuanGroup/Next-Patch-Prediction, arXiv 2412.15321"
WRAPPERS = ("model",)


def _member(size: str, parameters: int) -> Member:
    return Member(
        name=f"npp-{size.lower()}-256",
        kind="generator",
        address="pytttttt/LlamaGen-NPP",
        file=f"c2i_{size}_256.pt",
        image_size=256,
        spec=plane(16),
        options={"model": {"size": size}, "unit": {"name": "patch", "sides": [2], "rate": 0.5}},
        parameters=parameters,
        convert=generator,
        tokenizer="llamagen-vq-16-256",
    )


MEMBERS = (
    _member("B", 110_888_448),
    _member("L", 342_910_976),
    _member("XL", 774_699_520),
    _member("XXL", 1_410_972_672),
)
