"""Write a reference: mean and covariance of features, and some of the images, in the layout of ADM's files.

    python evaluate.py make-reference /data/imagenet/train out=imagenet256.npz pixels.resize=adm pixels.size=256
    python evaluate.py make-reference emoji out=emoji32.npz pixels.resize=adm pixels.size=32 inception_weights=FILE

IMAGES is what evaluate.py can score, or a data set. The file holds mu, sigma (2048, for FID) and mu_s, sigma_s (2023,
for sFID) of all images, and in arr_0 some of them, at equal distances, for precision and recall. ADM's own evaluator
reads it too.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pointillist.configs.files import cannot_write
from pointillist.configs.options import choices, option, pick_device
from pointillist.data.pixels import Pixels
from pointillist.evaluation.features import MOMENTS
from pointillist.evaluation.networks.options import Weights

LAYERS = {"inception": ("pool", "spatial"), "dinov2": ("cls",)}


@dataclass
class Options(Weights):
    out: str = option("", "the .npz to write")
    images: int = option(10_000, "how many images to keep in it; ADM keeps 10,000, 0 = none")
    networks: str = option("inception", "whose statistics: inception, dinov2 or both with a comma")
    pixels: Pixels = option(Pixels(), "how the images are brought to one size")
    split: Literal["train", "heldout"] = option("train", "of a data set")
    data: dict[str, Any] = option({}, "options of a data set: data.root=FOLDER")
    batch_size: int = option(64, "images that go through the networks together")
    device: str = option("auto", "auto = cuda if there is one, else cpu")


def main(targets: list[str], o: Options) -> None:
    from pointillist.evaluation.measure import Pass
    from pointillist.evaluation.suite import open_networks
    from pointillist.evaluation.tally import Wanted
    from pointillist.training.processes import processes

    if len(targets) != 1 or not o.out.endswith(".npz"):
        raise ValueError("give one set of images and the file: python evaluate.py make-reference IMAGES out=REF.npz")
    if Path(o.out).exists():
        raise ValueError(f"{o.out} is there already; delete it, or choose another out=FILE.npz")
    if o.images < 0 or o.batch_size < 1:
        raise ValueError(f"images={o.images} must be 0 or more, and batch_size={o.batch_size} 1 or more")
    names = [n.strip() for n in o.networks.split(",")]
    if unknown := [n for n in names if n not in LAYERS]:
        raise ValueError(f"networks={o.networks}: {', '.join(unknown)} has no statistics; choose {', '.join(LAYERS)}")
    images = open_images(targets[0], o)
    device = pick_device(o.device)
    networks = open_networks(set(names), o, device)
    wanted = Wanted({n: {layer: {MOMENTS} for layer in LAYERS[n]} for n in names})
    out = Path(o.out)
    with processes() as group:
        run = Pass(out.with_name(f"{out.name}.parts"), images, networks, wanted, group)
        measured = run.run(o.batch_size, "reference")
        if group.is_first:
            write(out, measured, images, kept(images.count, o.images), networks)
            run.remove()
            print(f"{out}: {images.count} images of {images.size} px, {min(o.images, images.count)} kept")
        group.wait()


def open_images(given: str, o: Options) -> Any:
    """Of a file, a folder or a data set. Raises ValueError, FileNotFoundError."""
    from pointillist.evaluation.reference import data_images
    from pointillist.evaluation.samples import open_samples

    o.pixels.check()
    if Path(given).exists() or given not in choices("data"):
        if o.data or o.split != "train":
            raise ValueError(f"{given} is no data set; data.* and split are for {', '.join(choices('data'))}")
        images = open_samples(given, o.pixels)
    elif o.pixels.resize == "adm":
        images = data_images(given, o.data, o.split, o.pixels.size)
    else:
        raise ValueError(f"{given} is centre-cropped as ADM does: add pixels.resize=adm pixels.size=PIXELS")
    if images.count < 2:
        raise ValueError(f"{given} holds {images.count} image; statistics need 2")
    return images


def kept(count: int, wanted: int) -> np.ndarray:
    """Image numbers at equal distances: a part of a class-sorted folder then has all classes."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(np.int64)) if wanted else np.zeros(0, int)


def write(out: Path, measured: Any, images: Any, index: np.ndarray, networks: dict[str, Any]) -> None:
    """An .npz written piece by piece: the images never lie in memory together. Raises OSError."""
    from pointillist.evaluation.reference import STORED

    card = {"networks": {n: net.card for n, net in networks.items()}, "images": images.card, "count": images.count}
    arrays = {"protocol": np.frombuffer(json.dumps(card).encode(), np.uint8)}
    for key, (mean, covariance) in STORED.items():
        network, layer = key.split("/")
        if network in networks:
            gaussian = measured.seen_by(network).moments(layer)
            # ADM's own mean is float32; forks of torch-fidelity insist on that
            arrays |= {mean: gaussian.mean.float().numpy(), covariance: gaussian.covariance.numpy()}
    partial = out.with_suffix(".tmp")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
            if len(index):
                write_images(archive, images, index)
        partial.replace(out)
    except OSError as e:
        partial.unlink(missing_ok=True)
        raise cannot_write(out, e) from None


def write_images(archive: zipfile.ZipFile, images: Any, index: np.ndarray) -> None:
    """arr_0: uint8 [n, S, S, 3]."""
    shape = (len(index), images.size, images.size, 3)
    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for part in np.array_split(index, max(1, len(index) // 64)):
            file.write(images.read(part).permute(0, 2, 3, 1).contiguous().numpy().tobytes())
