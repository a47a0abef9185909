"""PAR: LlamaGen with several codes a pass (Wang et al., arXiv 2412.15119).

It adds learned tokens, one fewer than there are regions.
"""

from __future__ import annotations

from pointillist.zoo.family import Member
from pointillist.zoo.llamagen import DROPPED as DROPPED
from pointillist.zoo.llamagen import generator, plane

TITLE = "PAR"
LICENCE = "not stated"
SOURCE = "https://github.com/Epiphqny/PAR, arXiv 2412.15119"
WRAPPERS = ("model",)


def _member(size: str, regions: int, parameters: int, aliases: tuple[str, ...] = ()) -> Member:
    return Member(
        name=f"par-{size.lower()}-{regions}x",
        kind="generator",
        address="Epiphqny/PAR",
        file=f"PAR-{size}-{regions}x.pt",
        image_size=384,
        spec=plane(24),
        options={"model": {"size": size}, "unit": {"name": "par", "regions": regions}},
        parameters=parameters,
        convert=generator,
        tokenizer="llamagen-vq-16-384",
        aliases=aliases,
    )


MEMBERS = (  # LlamaGen's numbers and (regions - 1) * dim
    _member("XL", 4, 774_703_360),
    _member("XXL", 4, 1_410_977_280, aliases=("PAR-1B-4x.pt",)),
    _member("3B", 4, 3_096_668_800),
    _member("3B", 16, 3_096_707_200),
)
