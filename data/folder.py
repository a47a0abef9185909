"""Your own images: a folder with a sub-folder a class, a tar of such a folder, WebDataset shards, Hugging Face data.

data=folder data.root=/data/imagenet           root/train and root/val when both exist, else a split by hash
data=folder data.root=/data/flowers.tar        the class is the folder inside the tar
data=folder data.root=wds//data/shards         *.tar shards (data/shards.py); two slashes: an absolute path
data=folder data.root=hfds/uoft-cs/cifar10     a data set on the Hub, or hfds/PATH for parquet/arrow files on disk
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from timm.data import ImageNetInfo, create_reader
from tqdm import tqdm

from pointillist.configs.options import option
from pointillist.data.hub import hub_listing, hub_splits
from pointillist.data.images import SPLITS, SUFFIXES, Images, Listing, is_heldout
from pointillist.data.loader import num_threads
from pointillist.data.shards import tar_listing, webdataset_listing

HELDOUT_NAMES = ("val", "validation", "valid", "heldout", "test")


@dataclass
class Options:
    name: str = "folder"
    root: str = option("", "image folder, FILE.tar, wds/FOLDER or hfds/NAME")
    heldout: float = option(0.1, "part kept for scoring, by a hash of the name; for data without their own split")
    bad_images: Literal["error", "skip"] = option(
        "error",
        "a broken image stops the run when it is read; skip decodes all first and leaves broken ones out",
    )
    image_column: str = option("image", "hfds: column of the images")
    label_column: str = option("label", "hfds: column of the labels, empty = one class")
    caption_column: str = option("", "hfds: column of the captions")


def open_images(options: Options, split: str) -> Images:
    """The images of a split ("train" | "heldout").

    Both splits have the classes of the training images. Raises ValueError: no such root, no images, a held-out class
    that training lacks, an empty split; and, with bad_images=skip, when no image can be read.
    """
    assert split in SPLITS, f"split {split}"
    train, own = open_parts(options)
    name = f"{Path(options.root).name}/{split}"
    listing = train if split == "train" or own is None else with_classes(own, train.classes, options.root)
    rows = list(range(len(listing.ids)))
    if own is None:
        rows = [i for i in rows if is_heldout(listing.ids[i], options.heldout) == (split == "heldout")]
    if options.bad_images == "skip":
        rows = readable(listing, rows, name)
    if not rows:
        raise ValueError(f"data.heldout={options.heldout} of {len(listing.ids)} images in {options.root} leaves none "
                         f"for {split}; give more images or choose another data.heldout")  # fmt: skip
    return replace(listing, classes=readable_names(listing.classes)).images(name, rows)


def open_parts(options: Options) -> tuple[Listing, Listing | None]:
    """(training images, the data's own held-out images), or (all images, None) where the hash has to split."""
    kind, _, rest = options.root.partition("/")
    if kind == "hfds" and rest:
        columns = options.image_column, options.label_column, options.caption_column
        splits = hub_splits(rest)
        train = "train" if "train" in splits else splits[0]
        own = next((s for s in HELDOUT_NAMES if s in splits and s != train), None)
        return hub_listing(rest, train, *columns), hub_listing(rest, own, *columns) if own else None
    root = Path(rest if kind == "wds" and rest else options.root)
    if not options.root or not root.exists():
        raise ValueError(f"data.root={options.root!r} does not exist; give an image folder, a .tar, wds/FOLDER or "
                         "hfds/NAME")  # fmt: skip
    if root.is_file():
        return tar_listing(root), None
    train, own = own_split(root)
    if kind == "wds" and rest:
        train, own = shard_split(train, own)
        return webdataset_listing(train), webdataset_listing(own) if own else None
    return folder_listing(train), folder_listing(own) if own else None


def own_split(root: Path) -> tuple[Path, Path | None]:
    """root/train and root/val (or another usual name) when both are there, else (root, None)."""
    heldout = next((root / name for name in HELDOUT_NAMES if (root / name).is_dir()), None)
    return (root / "train", heldout) if heldout and (root / "train").is_dir() else (root, None)


def shard_split(train: Path, own: Path | None) -> tuple[list[Path], list[Path]]:
    """Shards in train/ and val/, else told apart by a word of their names: imagenet-val-000.tar."""
    tars = sorted(train.glob("*.tar"))
    if not tars:
        raise ValueError(f"{train} holds no *.tar shards")
    if own:
        return tars, sorted(own.glob("*.tar"))
    heldout = [t for t in tars if set(re.split(r"[^a-z]+", t.stem.lower())) & set(HELDOUT_NAMES)]
    return ([t for t in tars if t not in heldout], heldout) if len(heldout) < len(tars) else (tars, [])


def folder_listing(root: Path) -> Listing:
    try:
        reader = create_reader("", str(root), input_key=";".join(SUFFIXES))
    except RuntimeError:  # timm found nothing
        hint = f"; shards are read by data.root=wds/{root}" if any(root.glob("*.tar")) else ""
        raise ValueError(f"{root} holds no images ({' '.join(SUFFIXES)}){hint}") from None
    samples = [(Path(path), label) for path, label in reader.samples if not Path(path).name.startswith(".")]
    names = sorted(reader.class_to_idx, key=reader.class_to_idx.get)
    return Listing(
        ids=[path.relative_to(root).as_posix() for path, _ in samples],
        sizes=[path.stat().st_size for path, _ in samples],
        labels=np.array([label for _, label in samples], np.int64),
        classes=tuple(name or root.name for name in names),  # images right in root have no folder name
        captions=(),
        read_bytes=lambda index: samples[index][0].read_bytes(),
    )


def readable(listing: Listing, rows: list[int], name: str) -> list[int]:
    """The rows whose image decodes (each is tried once); the others are counted and listed on stderr."""
    with ThreadPoolExecutor(num_threads()) as pool:
        found = pool.map(lambda row: _problem(listing, row), rows)
        problems = dict(zip(rows, tqdm(found, f"checking {name}", len(rows), delay=5), strict=True))
    broken = [problem for problem in problems.values() if problem]
    if broken:
        print(f"{name}: {len(broken)} of {len(rows)} images left out:", *broken, sep="\n  ", file=sys.stderr)
    if len(broken) == len(rows):
        raise ValueError(f"{name}: none of the {len(rows)} images can be read")
    return [row for row in rows if not problems[row]]


def _problem(listing: Listing, row: int) -> str:
    try:
        listing.decode(row)
    except ValueError as e:
        return str(e).partition("; repair")[0]
    return ""


def with_classes(listing: Listing, classes: tuple[str, ...], root: str) -> Listing:
    """The listing with its labels counted in `classes`, those of training."""
    if unknown := sorted({listing.classes[i] for i in np.unique(listing.labels)} - set(classes)):
        raise ValueError(f"the held-out images of {root} have {len(unknown)} classes that the training images lack: "
                         f"{', '.join(unknown[:5])}")  # fmt: skip
    number = {name: i for i, name in enumerate(classes)}
    table = np.array([number.get(name, -1) for name in listing.classes], np.int64)
    return replace(listing, labels=table[listing.labels], classes=classes)


def readable_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet folder names (n01440764) -> "tench, Tinca tinca"; others stay."""
    if not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return classes
    info = ImageNetInfo("imagenet-22k")
    known = set(info.label_names())
    names = [info.label_name_to_description(wnid) if wnid in known else wnid for wnid in classes]
    count = Counter(names)  # ImageNet has two kinds of "crane"
    return tuple(f"{name} ({w})" if count[name] > 1 else name for name, w in zip(names, classes, strict=True))
