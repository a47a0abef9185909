"""What makes two scores comparable: where their protocol cards differ, and which scores a difference concerns."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from pointillist.configs.options import choices, find
from pointillist.evaluation.features import BANK, MOMENTS
from pointillist.evaluation.reconstruction.names import RECONSTRUCTION, SEEN_BY, UNVERIFIED

ABSENT = "absent"  # stands for the value of a key that one of the two cards has not
OFFLINE = "pointillist-offline"  # the suite that needs no published network; its numbers mean nothing to a paper

# What a card says of every published row of ImageNet: N, the network, and a reference as ADM's files are, which store
# statistics without their number (null) beside 10,000 images for precision and recall.
ADM = {
    "count": 50_000,
    "networks": {"inception": {"verified": True}},
    "reference": {"moments_of": {"inception/pool": None, "inception/spatial": None}, "image_count": 10_000},
    "scores": {"precision_recall": {"k": 3}, "inception_score": {"rule": "adm", "split_size": 5000}},
}


def flatten(card: dict, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of nested dictionaries; a list is one value, an empty dictionary none."""
    flat = {}
    for key, value in card.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def differences(a: dict, b: dict) -> dict[str, tuple]:
    """Dotted key -> (value of `a`, value of `b`) where two cards `result["protocol"]` differ, in a's order."""
    mine, theirs = flatten(a), flatten(b)
    pairs = {key: (mine.get(key, ABSENT), theirs.get(key, ABSENT)) for key in {**mine, **theirs}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def departures(wanted: dict, card: dict) -> dict[str, tuple]:
    """As `differences`, of the keys that `wanted` names and no others."""
    return {key: pair for key, pair in differences(wanted, card).items() if pair[0] is not ABSENT}


# -------------------------------------------------------------------------------------------------- which are concerned


@dataclass(frozen=True)
class Origin:
    """Where a score comes from: its file in evaluation/scores, the network it looks through, and what it needs of the
    reference: "network/layer" -> moments | classes | bank."""

    file: str
    network: str
    reference: dict[str, str]


@cache
def origins() -> dict[str, Origin]:
    """Result name, with and without the published network -> where it comes from."""
    found = {}
    for file in choices("evaluation/scores"):
        module = find("evaluation/scores", file)
        reference = {f"{module.NETWORK}/{layer}": kind for layer, kind in module.REFERENCE.items()}
        found |= {name: Origin(file, module.NETWORK, reference) for pair in module.UNVERIFIED.items() for name in pair}
    for name in RECONSTRUCTION:  # of a tokenizer; compared with the images themselves
        found[name] = Origin(name, SEEN_BY.get(name, ""), {"pixels": BANK})
        found |= {UNVERIFIED[name]: found[name]} if name in UNVERIFIED else {}
    return found


def origin(name: str) -> Origin | None:
    """Of a score as it stands in scores.json, also of "frechet(inception-1a2b3c4d)" and "pfid@0.9x200"; None for names
    that nothing here gives, such as "toy_frechet/emoji/035f4694"."""
    return origins().get(re.sub(r"(@[\d.,x]+)?(\(.*\))?$", "", name))


def concerns(key: str, name: str) -> bool:
    """Whether another value under the card's dotted `key` makes another thing of the score `name`.

    The options of a score's file concern its scores, a network's card those that look through it, the reference those
    that need one: how many images its moments are of, those that need these moments; how many images it holds, those
    that need more than moments. Everything else, and everything about a score that is not known, concerns all.
    """
    source, (room, _, rest) = origin(name), key.partition(".")
    if source is None or room not in ("scores", "networks", "reference"):
        return True
    part, _, inner = rest.partition(".")
    if room != "reference":
        return part == (source.file if room == "scores" else source.network)
    if part == "moments_of":
        return source.reference.get(inner) == MOMENTS
    if part == "image_count":
        return any(kind != MOMENTS for kind in source.reference.values())
    return bool(source.reference)


def is_offline(card: dict) -> bool:
    return str(card.get("suite", "")).startswith(OFFLINE)


# ------------------------------------------------------------------------------------------------------------- in words


def branches(found: dict[str, tuple]) -> list[dict[str, tuple]]:
    """Differences that one sentence tells together: of one network, of one score's options, of the reference. What a
    reference holds is not told where it is another one anyway."""
    grouped: dict[str, dict[str, tuple]] = {}
    for key, pair in found.items():
        room, part, *_ = [*key.split("."), ""]
        if "reference.sha256" in found and room == "reference" and part in ("moments_of", "image_count"):
            continue
        grouped.setdefault(f"{room}.{part}" if room in ("scores", "networks") else room, {})[key] = pair
    return list(grouped.values())


def sentence(found: dict[str, tuple], here: str = "here") -> str:
    """ "reference.sha256 1234abcd, here 9876fedc; reference.count none, here 50000"."""
    return "; ".join(f"{key} {a}, {here} {b}" for key, a, b in ((k, *_told(*pair)) for k, pair in found.items()))


def _told(a: Any, b: Any) -> tuple[str, str]:
    """Two values for a person: hashes as short as tells them apart, one line each."""
    texts = [_text(a), _text(b)]
    if all(re.fullmatch(r"[0-9a-f]{32,}", text) or text in (ABSENT, "none") for text in texts):
        length = next((n for n in (8, 16, 32) if texts[0][:n] != texts[1][:n]), 64)
        texts = [text[:length] for text in texts]
    return texts[0], texts[1]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join((value if isinstance(value, str) else json.dumps(value)).split()) or '""'
