"""What samples are compared with: stored statistics, images, or both (ADM's .npz: statistics of the whole training set
and 10,000 images for precision and recall)."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointillist.configs.files import file_hash
from pointillist.configs.options import build, choices, did_you_mean, find
from pointillist.data.crops import Views, center_crop
from pointillist.data.pixels import Pixels
from pointillist.evaluation.features import MOMENTS, Features
from pointillist.evaluation.frechet import Gaussian
from pointillist.evaluation.measure import Measured, Pass
from pointillist.evaluation.samples import Samples, open_samples
from pointillist.evaluation.tally import Wanted
from pointillist.training.processes import Processes

# Names of mean and covariance in an .npz, by "network/layer"; the first two are ADM's.
STORED = {
    "inception/pool": ("mu", "sigma"),
    "inception/spatial": ("mu_s", "sigma_s"),
    "dinov2/cls": ("mu_dinov2", "sigma_dinov2"),
}


@dataclass(frozen=True, eq=False)
class Reference:
    """Opened, but not yet seen by any network.

    source   what was given
    sha256   of the file, or of the images' names, sizes and dates
    stored   "network/layer" -> mean and covariance that came with it
    images   or None: then only `stored` can be compared with
    made     what make-reference wrote of their making; {} for a file of another program
    """

    source: str
    sha256: str
    stored: dict[str, Gaussian]
    images: Samples | None
    made: dict[str, Any] = field(default_factory=dict)

    def check(self, networks: dict[str, Any]) -> None:
        """Raises ValueError where what is stored was not seen by these networks, or is of a single image."""
        for key, gaussian in self.stored.items():
            name, layer = key.split("/")
            if name not in networks:
                continue
            network, theirs = networks[name], self.made.get("networks", {}).get(name, {}).get("sha256")
            if gaussian.dim != network.layers[layer]:
                raise ValueError(f"{self.source}: {' and '.join(STORED[key])} are of {gaussian.dim} features, {key} "
                                 f"has {network.layers[layer]}; this is a reference of another network")  # fmt: skip
            if theirs not in (None, network.sha256):
                raise ValueError(f"{self.source} was made with {name} weights {theirs[:8]}..., these are "
                                 f"{network.sha256[:8]}...; make it again, or name those weights")  # fmt: skip
        if self.images and self.images.count < 2:
            raise ValueError(f"reference {self.source} holds {self.images.count} image; a distribution needs 2 or more")

    def wanted(self, wanted: Wanted) -> Wanted:
        """Less what is stored. Raises ValueError where something is neither stored nor can be had from images."""
        layers: dict[str, dict[str, set[str]]] = {}
        for network, parts in wanted.layers.items():
            for layer, kinds in parts.items():
                left = kinds - ({MOMENTS} if f"{network}/{layer}" in self.stored else set())
                if MOMENTS in left and self.stored and self.images is not None:
                    raise ValueError(f"{self.source} holds {', '.join(self.stored)} but not {network}/{layer}; its "
                                     "images are not those of its statistics: leave that score out")  # fmt: skip
                if left:
                    layers.setdefault(network, {})[layer] = left
        if layers and self.images is None and not self.stored:
            raise ValueError(f"{self.source} holds neither statistics (mu, sigma) nor images (arr_0)")
        if layers and self.images is None:
            missing = ", ".join(f"{n}/{layer}" for n, v in layers.items() for layer in v)
            raise ValueError(f"{self.source} holds {', '.join(self.stored)} and no images (arr_0); these scores also "
                             f"need {missing}: leave them out, or give a reference with images")  # fmt: skip
        return replace(wanted, layers=layers)

    def measure(self, networks: dict[str, Any], wanted: Wanted, cache: Path, batch: int, group: Processes) -> Compared:
        """See what is wanted and not stored; kept under `cache`, so a reference is measured once."""
        left = self.wanted(wanted)
        if not left.layers:
            return Compared(self, None, "")
        assert self.images is not None
        identity = {n: networks[n].sha256 for n in left.layers}
        key = json.dumps([self.sha256, self.images.identity, self.images.card, identity, left.card()], sort_keys=True)
        folder = cache / f"reference-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        return Compared(self, Pass(folder, self.images, networks, left, group).run(batch, "reference"), "")


@dataclass(frozen=True, eq=False)
class Compared:
    """A reference as one network sees it: `Features`, of which moments may be stored ones."""

    reference: Reference
    measured: Measured | None
    network: str

    @property
    def count(self) -> int | None:
        """Of the images, None without any."""
        return self.reference.images.count if self.reference.images else None

    def seen_by(self, network: str) -> Features:
        seen = self.measured.seen_by(network) if self.measured else None
        return Compared(self.reference, seen, network)

    def moments(self, layer: str) -> Gaussian:
        stored = self.reference.stored.get(f"{self.network}/{layer}")
        return stored if stored is not None else self.measured.moments(layer)

    def bank(self, layer: str) -> np.ndarray:
        return self.measured.bank(layer)


# ---------------------------------------------------------------------------------------------------------------- open


def open_reference(given: str, data: dict, split: str, pixels: Pixels, size: int) -> Reference:
    """A file or folder, or a data set of data/NAME.py at size x size pixels.

    split   of a data set, "train" unless said otherwise
    data    its options
    pixels  how images of a file or folder are brought to a size
    Raises FileNotFoundError, ValueError: also for options that the other kind has.
    """
    if not given:
        raise ValueError(
            "compared with what? reference=FILE.npz (ADM's statistics), a folder of images, or a data set: "
            f"{', '.join(choices('data'))}"
        )
    path = Path(given)
    if path.exists():
        if data or split != "train":
            raise ValueError(f"{given} is a file or folder; data.* and reference_split are for data sets")
        made = read_made(path) if path.suffix == ".npz" else {}
        stored = read_stored(path, made.get("count")) if path.suffix == ".npz" else {}
        has_images = path.suffix != ".npz" or "arr_0.npy" in members(path)
        images = open_samples(path, pixels) if has_images else None
        sha256 = file_hash(path) if path.is_file() else images.identity
        return Reference(given, sha256, stored, images, made)
    if given in choices("data"):
        if pixels != Pixels():
            raise ValueError(f"{given} is a data set, cropped to the samples' size; reference_pixels.* are for files")
        images = data_images(given, data, split, size)
        return Reference(f"{given}/{split}", images.identity, {}, images)
    names = choices("data")
    raise FileNotFoundError(
        f"no reference at {given}, nor a data set of that name ({', '.join(names)}){did_you_mean(given, names)}"
    )


def data_images(name: str, data: dict, split: str, size: int) -> Samples:
    """A split of a data set in its own order, centre-cropped as ADM does."""
    module = find("data", name)
    images = module.open_images(build(module.Options, {**data, "name": name}), split)
    views = Views(size=size, flip=False)

    def read(index: np.ndarray) -> torch.Tensor:
        found = [np.asarray(center_crop(images.read(int(i)), views.size)) for i in index]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    card = {"format": "data set", "pixels": {"resize": "adm", "size": size, "quantize": "as stored"}}
    return Samples(images.name, Path(), len(images), size, images.labels, 0, f"{images.fingerprint}-{size}", card, read)


def members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as e:
        raise ValueError(f"{path} is damaged or was cut off ({e}); get it again") from None


def read_stored(path: Path, count: int | None) -> dict[str, Gaussian]:
    """Means and covariances of an .npz, by "network/layer", of `count` images if that is known. Raises ValueError."""
    held = members(path)
    out = {}
    for key, (mean, covariance) in STORED.items():
        if f"{mean}.npy" not in held and f"{covariance}.npy" not in held:
            continue
        try:
            with np.load(path, allow_pickle=False) as file:
                m, s = torch.from_numpy(file[mean]).double(), torch.from_numpy(file[covariance]).double()
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
            raise ValueError(f"{path}: {mean} and {covariance} cannot be read ({e}); get the file again") from None
        if m.ndim != 1 or s.shape != (len(m), len(m)) or not (m.isfinite().all() and s.isfinite().all()):
            raise ValueError(f"{path}: {mean} is {list(m.shape)} and {covariance} {list(s.shape)}, or they hold NaN; "
                             "expected finite [D] and [D, D]")  # fmt: skip
        out[key] = Gaussian(m, (s + s.T) / 2, count)
    return out


def read_made(path: Path) -> dict:
    """What make-reference wrote about an .npz: networks, images, count; {} where it did not. Raises ValueError."""
    if "protocol.npy" not in members(path):
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return json.loads(file["protocol"].tobytes())
    except ValueError as e:
        raise ValueError(f"{path}: protocol cannot be read ({e}); make the reference again") from None
