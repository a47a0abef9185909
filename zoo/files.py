"""Files of published checkpoints: where they are found, and how they are read without running what they hold."""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from pointillist.zoo.family import Member, Weights

PREFIXES = {"module", "_orig_mod"}  # what DistributedDataParallel and torch.compile put into the names
LARGE = 1 << 28  # bytes from which on reading is shown


def address_of(member: Member) -> str:
    """The address where a member's file can be downloaded by hand."""
    return f"https://huggingface.co/{member.address}/resolve/main/{member.file}"


# ------------------------------------------------------------------------------------------------------------- finding


def find_file(member: Member, weights: str, same_name: Iterable[Member] = ()) -> Path:
    """The file that holds a member.

    weights    a file; a folder that holds it under its name or an alias, or one level below; a Hugging Face repository
               owner/name; "" is the repository of the member
    same_name  members whose file has the same name: what lies in a folder named like another's family or repository is
               not this one's
    Raises FileNotFoundError, one line, that says what to download and from where; ValueError for several files, and for
    a file that is another's by its folder.
    """
    place = Path(weights).expanduser()
    foreign = {home for m in same_name for home in _homes(m)} - _homes(member)
    if weights and place.is_file():
        if place.absolute().parent.name.lower() in foreign:
            raise ValueError(
                f"{place} lies in a folder named like another publication's, which has a file of that name and shapes; "
                f"if it is {member.name}'s, move it to a folder of another name"
            )
        return place
    if weights and place.is_dir():
        return _in_folder(member, place, foreign)
    if weights and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", weights):
        raise FileNotFoundError(f"weights={weights}: no such file or folder; {_by_hand(member)}")
    return _from_hub(member, weights)


def _in_folder(member: Member, folder: Path, foreign: set[str]) -> Path:
    names = (member.file, *member.aliases)
    found = [folder / name for name in names if (folder / name).is_file()][:1]
    found = found or sorted(path for name in names for path in folder.glob(f"*/{name}") if path.is_file())
    found = [path for path in found if path.absolute().parent.name.lower() not in foreign]
    own = [path for path in found if path.absolute().parent.name.lower() in _homes(member)]
    found = own if len(found) > 1 and own else found
    if len(found) > 1:
        raise ValueError(f"{member.name} could be any of {', '.join(map(str, found))}; give the file, weights=FILE")
    if not found:
        also = f" (or {', '.join(member.aliases)})" if member.aliases else ""
        raise FileNotFoundError(f"{folder} holds no {member.file}{also} of {member.name}; {_by_hand(member)}")
    return found[0]


def _from_hub(member: Member, weights: str) -> Path:
    repository = weights or member.address
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FileNotFoundError(
            f"{member.name} is not here and there is no huggingface_hub; {_by_hand(member)}"
        ) from None
    try:
        return Path(hf_hub_download(repository, member.file))
    except Exception as e:  # the hub and its transport have dozens of types for absent, forbidden and unreachable
        reason = " ".join(str(e).split())[:120]
        local = f"there is no file or folder {weights}, and " if weights else ""
        raise FileNotFoundError(
            f"{local}{member.file} of {member.name} could not be had from Hugging Face's {repository} "
            f"({type(e).__name__}: {reason}); {_by_hand(member)}"
        ) from None


def _homes(member: Member) -> set[str]:
    """Names of folders in which its files lie, usually: its repository's, and its family's as in docs/zoo.md."""
    return {member.address.rpartition("/")[2].lower(), member.name.partition("-")[0]}


def _by_hand(member: Member) -> str:
    return f"download {address_of(member)} and give its folder, weights=FOLDER"


# ------------------------------------------------------------------------------------------------------------- reading


def read_file(path: Path, family: ModuleType) -> Weights:
    """The published tensors by their published names, without the family's DROPPED buffers; floating types as fp32.

    Nothing in the file is executed. Raises ValueError, one line, for a file that is damaged, no checkpoint, or that
    holds other Python objects than tensors, containers and argparse.Namespace.
    """
    found = _unwrapped(_read(path), family.WRAPPERS, path)
    weights: Weights = {}
    for name, value in found.items():
        key = ".".join(part for part in name.split(".") if part not in PREFIXES)
        if any(re.fullmatch(pattern, key) for pattern in family.DROPPED):
            continue
        if key in weights:
            raise ValueError(f"{path} holds {key} twice, with and without a prefix; give the published file")
        weights[key] = value.float() if value.is_floating_point() else value
    return weights


def _read(path: Path) -> Any:
    """What a file holds, mapped from it rather than read where the format allows it."""
    _check_text(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        zipped = zipfile.is_zipfile(path)
        names = zipfile.ZipFile(path).namelist() if zipped else []
        if not any(name.endswith("/constants.pkl") for name in names):
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as e:  # pickle, zip, EOF, runtime, key and safetensors errors of damaged files
        if name := re.search(r"(?:GLOBAL|[Cc]lass|function|type) ([a-zA-Z_]\w*(?:\.\w+)+)", str(e)):
            raise ValueError(f"{path} holds {name[1]}, which would run code; only tensors, containers and "
                             "argparse.Namespace are read, so give the published file") from None  # fmt: skip
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:80]
        raise ValueError(f"{path} is damaged, cut off or no checkpoint ({reason}); download it again") from None
    raise ValueError(f"{path} is a TorchScript archive, a program; give the published checkpoint")


def _check_text(path: Path) -> None:
    """Raises ValueError for what is often found in the place of a checkpoint."""
    with open(path, "rb") as file:
        start = file.read(200).lstrip().lower()
    size = f"{path.stat().st_size:,} bytes"
    if not start:
        raise ValueError(f"{path} is empty; download it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} ({size}) is a web page, not a checkpoint; download the file behind it")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} ({size}) only points to the file; run `git lfs pull` in its folder, or download it")


def _unwrapped(found: Any, wrappers: tuple[str, ...], path: Path) -> Mapping[str, Tensor]:
    """The tensors by name in what a file holds: itself, or what lies under the first wrapper that is there."""
    for wrapper in ("", *wrappers):
        inner = found
        for step in filter(None, wrapper.split(".")):
            inner = inner.get(step) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
            return inner
    held = ", ".join(list(map(str, found))[:5]) if isinstance(found, Mapping) else ""
    raise ValueError(
        f"{path} holds no tensors by name, but a {type(found).__name__}{f' of {held}' if held else ''}; they are "
        f"looked for at the top and under {', '.join(wrappers) or 'nothing else'}"
    )


def hashed(path: Path) -> str:
    """sha256 of a file, hexadecimal; large files show how far it is."""
    digest, size = hashlib.sha256(), path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, leave=False, disable=size < LARGE)
    with open(path, "rb", buffering=0) as file, bar:
        while block := file.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
