"""Published checkpoints by name: converted once into a checkpoint folder of ours, or with random weights."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from pointillist.training import checkpoint
from pointillist.training.load import load_generator, load_tokenizer
from pointillist.zoo.describe import config_of, is_published, origin, unfilled
from pointillist.zoo.family import Member
from pointillist.zoo.files import address_of, find_file, hashed, read_file
from pointillist.zoo.fit import converted
from pointillist.zoo.members import family_of, member, members, names

__all__ = ["convert", "load", "member", "names", "random"]

CONVERTED = Path("runs/zoo")
STEP = "step_00000000"

# ---------------------------------------------------------------------------------------------------------- conversion


def convert(name: str, weights: str | Path = "", into: str | Path = CONVERTED) -> Path:
    """The checkpoint folder `into`/NAME/step_00000000 of a published checkpoint; a generator's tokenizer beside it.
    That of a file with another name than the published one, somebody's fine-tune, is `into`/NAME-STEM/step_00000000.

    What has been converted before is used again. weights: see files.find_file; "" is the address of the publication.
    Raises FileNotFoundError for a file that is nowhere, ValueError for one that is not this checkpoint, OSError where
    there is no room; nothing half-written stays.
    """
    m, into, weights = member(name), Path(into), str(weights)
    folder = into / name / STEP
    if folder.exists() and not weights:
        return _made_before(folder, m)
    file = find_file(m, weights, [x for x in members() if m.file in (x.file, *x.aliases)])
    folder = folder if is_published(m, file) else into / f"{name}-{file.stem}" / STEP
    tokenizer = _tokenizer_of(m, weights, into) if m.tokenizer else None
    if folder.exists():
        return _made_before(folder, m, file)
    codec = load_file(tokenizer / "model.safetensors") if tokenizer and m.lifts else {}
    ours = converted(m, read_file(file, family_of(m)), codec, file)
    _check_name(m, file)
    config = {**config_of(m, tokenizer), "original": origin(m, file)}
    with _alone(folder.parent):
        if not folder.exists():  # another process may have been first
            checkpoint.save(folder.parent, 0, ours, config, state=None)
    return _made_before(folder, m, file)


def _tokenizer_of(m: Member, weights: str, into: Path) -> Path:
    """The converted tokenizer of a generator, from beside its weights."""
    tokenizer, place = member(m.tokenizer), Path(weights).expanduser()
    if not weights or not place.exists():
        return convert(tokenizer.name, into=into)
    place = place.parent if place.is_file() else place
    try:
        return convert(tokenizer.name, place, into)
    except FileNotFoundError:
        if (into / tokenizer.name / STEP).exists():
            return convert(tokenizer.name, into=into)
        raise FileNotFoundError(
            f"{m.name} needs its tokenizer {tokenizer.name}: download {address_of(tokenizer)} into {place}"
        ) from None


def _made_before(folder: Path, m: Member, file: Path | None = None) -> Path:
    """A folder that was converted from this file. Raises ValueError, with what to do, for others."""
    again = f"delete {folder} to convert it anew"
    try:
        config = checkpoint.read_config(folder)
        original, size = config["original"], (folder / "model.safetensors").stat().st_size
    except (ValueError, KeyError, OSError) as e:
        raise ValueError(f"{folder} is damaged ({type(e).__name__}); {again}") from None
    if original["name"] != m.name or not size:
        raise ValueError(f"{folder} holds {original['name']}, not {m.name}; {again}")
    if file and not _is_original(file, original):
        raise ValueError(
            f"{folder} was converted from another {original['file']} ({original['sha256'][:8]}) than {file}; {again}, "
            "or leave weights= to use it"
        )
    return folder


def _is_original(file: Path, original: dict) -> bool:
    """By its size and time of change, else by its content: a fine-tuned file may have the size of the published one."""
    stat = file.stat()
    if stat.st_size != original["bytes"]:
        return False
    return stat.st_mtime_ns == original["modified"] or hashed(file) == original["sha256"]


def _check_name(m: Member, file: Path) -> None:
    """Raises ValueError for a file of equal shapes that has the name of another member of the family."""
    others = [x.name for x in family_of(m).MEMBERS if file.name in (x.file, *x.aliases)]
    if others and not is_published(m, file):
        raise ValueError(
            f"{file} has the name of {others[0]}, whose weights have the shapes of {m.name}'s; give {m.file}, or "
            "rename the file if it is that"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time writes into a folder; the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


# -------------------------------------------------------------------------------------------------------------- models


def load(name: str, weights: str | Path = "", device: torch.device | str = "cpu", into: str | Path = CONVERTED) -> Any:
    """The frozen network, converted first where it has not been. Raises as `convert`."""
    folder = convert(name, weights, into)
    return (load_tokenizer if member(name).kind == "tokenizer" else load_generator)(folder, device)[0]


def random(name: str) -> tuple[Any, dict]:
    """The frozen network of a member's size with random weights of seed 0, and its config: no file is needed."""
    config = config_of(member(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of codebooks, which constructors draw
        network = unfilled(config)
    for parameter, key in ((p, k) for k, p in network.named_parameters() if p.ndim < 2):
        nn.init.constant_(parameter, float(key.endswith("weight")))  # of norms; biases are zero
    _fill([p for p in network.parameters() if p.ndim >= 2])
    return network.eval().requires_grad_(False), config


@torch.no_grad()
def _fill(parameters: list[nn.Parameter]) -> None:
    """N(0, 0.02), in place. The numbers repeat after a prime many: three billion take long to draw."""
    numbers = torch.empty(4_194_301).normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    position = 0
    for parameter in parameters:
        left = parameter.view(-1)
        while len(left):
            part = numbers[position : position + len(left)]
            left[: len(part)] = part
            left, position = left[len(part) :], (position + len(part)) % len(numbers)
