"""Members as config.json of a checkpoint describes them, and their networks without weights."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from pointillist.configs.options import build, find, to_dict
from pointillist.models.generator import Options as GeneratorOptions
from pointillist.training import checkpoint
from pointillist.training.load import described_generator, described_tokenizer
from pointillist.zoo.family import Member
from pointillist.zoo.files import hashed
from pointillist.zoo.members import family_of, member

Shapes = dict[str, tuple[int, ...]]


def config_of(m: Member, tokenizer: Path | None = None) -> dict[str, Any]:
    """What config.json says of a member, in the form of training/tasks.

    tokenizer: its converted folder; None where both have random weights.
    """
    if m.kind == "tokenizer":
        options = to_dict(build(find("tokenizers", m.options["name"]).Options, m.options))
        return {"kind": "tokenizer", "tokenizer": options, "image_size": m.image_size, "spec": asdict(m.spec)}
    model, unit = m.options["model"], m.options["unit"]
    return {
        "kind": "generator",
        "model": to_dict(build(GeneratorOptions, model)),
        "unit": to_dict(build(find("models/units", unit["name"]).Options, unit)),
        "spec": asdict(m.spec),
        "classes": [] if model.get("caption_length") else imagenet_classes(),
        "class_counts": None,  # unknown
        "image_size": m.image_size,
        "tokenizer": {
            "path": str(tokenizer.parent) if tokenizer else "",
            "sha256": checkpoint.read_config(tokenizer)["sha256"] if tokenizer else f"random-{m.tokenizer}",
            "name": member(m.tokenizer).options["name"],
        },
    }


def is_published(m: Member, file: Path) -> bool:
    """Whether a file has the name under which a member was published."""
    return file.name in (m.file, *m.aliases)


def origin(m: Member, file: Path) -> dict[str, Any]:
    """Where converted weights come from."""
    stat, sha256 = file.stat(), hashed(file)
    return {
        "name": m.name,
        "file": file.name,
        "address": m.address if is_published(m, file) else "",  # a file of another name is somebody else's
        "sha256": sha256,
        "bytes": stat.st_size,
        "modified": stat.st_mtime_ns,
        "licence": family_of(m).LICENCE,
    }


@cache
def imagenet_classes() -> list[str]:
    """The 1,000 names of ImageNet's classes, all different, in the order that published checkpoints number them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    short = [info.index_to_description(i) for i in range(1000)]
    return [name if short.count(name) == 1 else info.index_to_description(i, True) for i, name in enumerate(short)]


def unfilled(config: dict) -> nn.Module:
    """The network that a config describes; the memory of its parameters is reserved, not touched."""
    with checkpoint.Unfilled():
        return described_tokenizer(config) if config["kind"] == "tokenizer" else described_generator(config, {}, {})


def shapes_of(m: Member) -> Shapes:
    """Of a member's weights here."""
    return {key: tuple(value.shape) for key, value in unfilled(config_of(m)).state_dict().items()}
