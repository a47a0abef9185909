"""Images inside uncompressed tar files: one tar with class folders, or WebDataset shards.

timm has readers for both. Its WebDataset reader only streams, so a run cannot return to image i; its tar reader reads a
whole tar to list it and shares one file position among threads. Here the tars are indexed once (headers only) and an
image is then an offset and a length: random access, any thread, exact resume.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from timm.utils.misc import natural_key
from tqdm import tqdm

from pointillist.data.images import SUFFIXES, Listing

LABELS = (".cls", ".json", ".txt")


class Member(NamedTuple):
    name: str  # path inside the tar
    tar: Path
    offset: int
    size: int


def index_tar(path: Path) -> list[Member]:
    """The files of a tar in their order. Raises ValueError for what is not a plain, whole tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            members = [Member(m.name, path, m.offset_data, m.size) for m in tar if m.isfile()]
    except tarfile.TarError as e:
        raise ValueError(f"{path} is not a plain tar ({e}); compressed tars must be unpacked first") from None
    if members and members[-1].offset + members[-1].size > path.stat().st_size:
        raise ValueError(f"{path} is cut short: {members[-1].name} ends behind its end; copy it again")
    return members


def read_member(member: Member) -> bytes:
    with open(member.tar, "rb") as file:  # opened each time: the position is then no other thread's
        file.seek(member.offset)
        return file.read(member.size)


def hidden(name: str) -> bool:
    """macOS puts `._x.jpg` beside x.jpg: not an image."""
    return PurePosixPath(name).name.startswith(".")


def tar_listing(path: Path) -> Listing:
    """One tar of images; the class is the folder an image lies in."""
    images = [m for m in index_tar(path) if m.name.lower().endswith(SUFFIXES) and not hidden(m.name)]
    if not images:
        raise ValueError(f"{path} holds no images ({' '.join(SUFFIXES)}); tars of tars must be unpacked first")
    images.sort(key=lambda m: natural_key(m.name))
    folders = [PurePosixPath(m.name).parent.name or path.stem for m in images]
    classes = tuple(sorted(set(folders), key=natural_key))
    return Listing(
        ids=[m.name for m in images],
        sizes=[m.size for m in images],
        labels=indices(folders, classes),
        classes=classes,
        captions=(),
        read_bytes=lambda index: read_member(images[index]),
    )


def webdataset_listing(tars: list[Path]) -> Listing:
    """WebDataset shards: files that share their name up to its first dot are one sample.

    Image: png jpg jpeg webp bmp. Label: `.cls` (a number or a name) or "label" in `.json`. Caption: "caption" in
    `.json`, or `.txt`. Labels and captions are there for all samples or for none.
    """
    images, labels, captions = [], [], []
    for tar in tqdm(sorted(tars, key=lambda t: natural_key(t.name)), "indexing shards", delay=5):
        for sample in _samples(index_tar(tar)).values():
            picture = next((sample[s] for s in SUFFIXES if s in sample), None)
            if picture:
                images.append(picture)
                label, caption = _text(sample)
                labels.append(label)
                captions.append(caption)
    if not images:
        raise ValueError(f"{tars[0].parent} holds {len(tars)} tar files but no images ({' '.join(SUFFIXES)}) in them")
    ids = [f"{m.tar.name}/{m.name}" for m in images]
    classes, numbers = _classes(ids, labels)
    return Listing(
        ids=ids,
        sizes=[m.size for m in images],
        labels=numbers,
        classes=classes,
        captions=tuple(captions) if _all_or_none(ids, captions, "caption (.txt or .json)") else (),
        read_bytes=lambda index: read_member(images[index]),
    )


def indices(names: list[str], classes: tuple[str, ...]) -> np.ndarray:
    """int64 [n]: the number of each class name."""
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int64)


def _samples(members: list[Member]) -> dict[str, dict[str, Member]]:
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        folder, _, file = member.name.rpartition("/")
        key, dot, suffix = file.partition(".")
        if not hidden(member.name):
            samples.setdefault(f"{folder}/{key}", {})[dot + suffix.lower()] = member
    return samples


def _text(sample: dict[str, Member]) -> tuple[Any, str | None]:
    """(label or None, caption or None) of one sample."""
    texts = {}
    for suffix in LABELS:
        if suffix in sample:
            member = sample[suffix]
            try:
                texts[suffix] = read_member(member).decode("utf-8").strip()
            except UnicodeDecodeError:
                raise ValueError(f"{member.tar}: {member.name} is not UTF-8 text") from None
    fields = {}
    if ".json" in texts:
        try:
            fields = json.loads(texts[".json"])
        except json.JSONDecodeError as e:
            raise ValueError(f"{sample['.json'].tar}: {sample['.json'].name} is not JSON ({e})") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{sample['.json'].tar}: {sample['.json'].name} must hold {{...}}, got {fields!r:.40}")
    return texts.get(".cls", fields.get("label")), fields.get("caption", texts.get(".txt"))


def _all_or_none(ids: list[str], values: list, what: str) -> bool:
    missing = [i for i, value in zip(ids, values, strict=True) if value is None]
    if missing and len(missing) < len(ids):
        raise ValueError(f"{len(missing)} of {len(ids)} samples have no {what}, the first is {missing[0]}")
    return not missing


def _classes(ids: list[str], labels: list) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and int64 [n]. Numbers keep their value (0..largest); names are sorted; no label: one class."""
    if not _all_or_none(ids, labels, "label (.cls or .json)"):
        return ("image",), np.zeros(len(ids), np.int64)
    names = [str(label) for label in labels]
    if all(name.isdecimal() for name in names):
        numbers = np.array([int(name) for name in names], np.int64)
        return tuple(map(str, range(int(numbers.max()) + 1))), numbers
    classes = tuple(sorted(set(names), key=natural_key))
    return classes, indices(names, classes)
