"""The models of a sampling request: a run's, a published checkpoint's, or random weights of a published one's size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pointillist import CodeSpec
from pointillist.configs.options import build, find, pick_device
from pointillist.models.generator import SAMPLING
from pointillist.training import checkpoint
from pointillist.training.load import load_generator, load_tokenizer, override, tokenizer_of
from pointillist.training.memory import keep_freed_memory
from pointillist.training.precision import cast, cast_decoder

RANDOM = "random"  # weights=random


@dataclass(frozen=True)
class Source:
    """What to open, as the options of a request say it; `changes`: its options unit and model as JSON; `rows`: of its
    passes, at most."""

    run: str
    zoo: str
    weights: str
    tokenizer: str
    draft: str
    device: str
    precision: str
    changes: str
    rows: int
    decoder_precision: str = "fp32"
    compile: bool = False

    @property
    def name(self) -> str:
        """For messages and titles."""
        return self.zoo or self.run


@dataclass(frozen=True)
class Models:
    """What was trained: generators and tokenizer on the device, config.json of the generators, their folders.

    folder is where the checkpoint lies; of random weights, which lie nowhere, where it would.
    """

    generator: Any
    config: dict
    folder: Path
    tokenizer: Any
    draft: Any = None
    draft_identity: dict | None = None


@lru_cache(maxsize=1)
def open_models(source: Source) -> Models:
    """Kept for the next point of a sweep. Raises ValueError, OSError."""
    to, changes = pick_device(source.device), json.loads(source.changes)
    if source.zoo and source.weights == RANDOM:
        generator, config = _random(source.zoo, *changes)
        folder = Path("runs") / "zoo" / f"{source.zoo}-{RANDOM}" / f"step_{0:08d}"
        codec = _random_tokenizer(source)
    else:
        folder = _folder(source.run, source.zoo, source.weights)
        generator, config = load_generator(folder, to, *changes)
        codec, _ = load_tokenizer(tokenizer_of(config, folder, source.tokenizer), to)
    if to.type == "cpu":
        keep_freed_memory()
    cast(generator, source.precision, to, source.rows, source.compile)
    codec = codec.to(to)
    cast_decoder(codec, source.decoder_precision)
    if not source.draft:
        return Models(generator, config, folder, codec)
    drafter, theirs, beside = _draft(source, config, to)
    _check_draft(source, config, theirs)
    if theirs["kind"] == "eagle":
        drafter.shared.network = generator  # held once
    cast(drafter, source.precision, to, source.rows, source.compile)
    identity = {"path": str(beside), "sha256": theirs["sha256"], "step": theirs["step"]}
    return Models(generator, config, folder, codec, drafter, identity)


def _folder(run: str, zoo: str, weights: str) -> Path:
    """The checkpoint of a run, or of a published one: brought to our format where it is not yet."""
    if not zoo:
        return checkpoint.locate(run)
    from pointillist.zoo.zoo import convert

    return checkpoint.locate(convert(zoo, weights))


def _draft(source: Source, config: dict, to: torch.device) -> tuple[Any, dict, Path]:
    """(generator or draft head, its config.json, its folder) of a run's path, or of a name of the zoo."""
    unit = json.loads(source.changes)[0]
    zoo = "" if Path(source.draft).exists() or source.draft not in _names(source) else source.draft
    if zoo and source.weights == RANDOM:
        same = config["unit"]["name"] == _generator(zoo).options["unit"]["name"]
        return *_random(zoo, unit if same else {}, {}), Path(f"{zoo}-{RANDOM}")
    place = Path(source.weights)  # a file is the target's; the draft lies beside it
    beside = _folder(source.draft, zoo, str(place.parent) if place.is_file() else source.weights)
    known = checkpoint.read_config(beside)
    same = known.get("kind") == "generator" and known["unit"]["name"] == config["unit"]["name"]
    return *load_generator(beside, to, unit if same else None), beside


def _check_draft(source: Source, config: dict, other: dict) -> None:
    """Raises ValueError for a draft of other codes or classes, or a head of another target."""
    run, mine, theirs = source.name, config["tokenizer"]["sha256"], other["tokenizer"]["sha256"]
    if mine != theirs or config["classes"] != other["classes"]:
        raise ValueError(
            f"draft={source.draft} was trained on codes of tokenizer {_short(theirs)}, {len(other['classes'])} "
            f"classes; {run} on {_short(mine)}, {len(config['classes'])} classes; choose a draft of the same tokenizer "
            "and data"
        )
    if (here := CodeSpec.from_dict(config["spec"])) != (there := CodeSpec.from_dict(other["spec"])):
        raise ValueError(
            f"draft={source.draft} draws codes of grids {there.grids}, {run} of {here.grids}; choose a draft of images "
            "of the same size"
        )
    if other["kind"] == "eagle" and other["target"]["sha256"] != config["sha256"]:
        raise ValueError(
            f"draft={source.draft} is a head of {other['target']['path']} ({other['target']['sha256'][:8]}), not of "
            f"{run} ({config['sha256'][:8]}); choose a head that was trained on it"
        )


def _short(sha256: str) -> str:
    """As much of a hash as tells two apart; all of a name that stands for one."""
    return sha256 if sha256.startswith(RANDOM) else sha256[:8]


# ------------------------------------------------------------------------------------------------------ random weights


def _names(source: Source) -> list[str]:
    if not source.zoo:
        return []
    from pointillist.zoo.zoo import names

    return list(names())


def _random(name: str, unit: dict, model: dict) -> tuple[Any, dict]:
    """A generator of the real size and its config; no checkpoint has its sha256."""
    from pointillist.zoo.zoo import random

    _generator(name)
    generator, config = random(name)
    module = find("models/units", config["unit"]["name"])
    units = override("unit", unit, config["unit"], getattr(module, "SAMPLING", set()))
    override("model", model, config["model"], SAMPLING - {"flow_steps"})
    generator.unit = build(module.Options, units)  # what may change after training is read at every pass
    config = {"step": 0, **config, "unit": units, "sha256": f"{RANDOM}-{name}"}
    return generator.eval().requires_grad_(False), config


def _generator(name: str) -> Any:
    """A member of the zoo. Raises ValueError for a tokenizer."""
    from pointillist.zoo.zoo import member

    if (m := member(name)).kind != "generator":
        raise ValueError(f"{name} is a {m.kind}, a generator is needed here")
    return m


def _random_tokenizer(source: Source) -> Any:
    """Of random weights too, but where one is named with tokenizer=FOLDER."""
    if source.tokenizer:
        return load_tokenizer(source.tokenizer)[0]
    from pointillist.zoo.zoo import member, random

    return random(member(source.zoo).tokenizer)[0].eval().requires_grad_(False)
