"""Passes over images for a tokenizer's scores: originals to codes, codes to reconstructions, perturbed ones too."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointillist.data.loader import spread
from pointillist.evaluation import card, suite
from pointillist.evaluation.features import BANK, MOMENTS
from pointillist.evaluation.frechet import frechet
from pointillist.evaluation.measure import Measured, Pass
from pointillist.evaluation.reconstruction import codes
from pointillist.evaluation.reconstruction.names import PERTURBED, SEEN_BY
from pointillist.evaluation.reconstruction.perturb import Grid, perturbations
from pointillist.evaluation.reconstruction.psnr import psnr
from pointillist.evaluation.reconstruction.ssim import CARD, ssim
from pointillist.evaluation.reconstruction.subject import Subject, reconstructed
from pointillist.evaluation.reconstruction.summary import of_images
from pointillist.evaluation.reference import Compared, Reference
from pointillist.evaluation.samples import Samples
from pointillist.evaluation.tally import Wanted
from pointillist.training.pictures import save_grid
from pointillist.training.processes import Processes


def open_networks(names: list[str], files: Any, device: torch.device) -> dict[str, Any]:
    """What the scores look through: "inception", "lpips_alex", "lpips_vgg". Raises as `suite.open_networks`."""
    seen_by = {SEEN_BY[name] for name in names if name in SEEN_BY}
    networks = suite.open_networks(seen_by & {"inception"}, files, device)
    for name in sorted(seen_by - {"inception"}):
        from pointillist.evaluation.networks.lpips import open_lpips  # torchvision takes its time

        networks[name] = open_lpips(name.removeprefix("lpips_"), files.weights_of(name), device)
        suite.require_published(name, networks[name], files.unverified)
    return networks


def distance(originals: Compared, decoded: Measured) -> float:
    """The Frechet distance in Inception's pooled features."""
    real, copy = (seen.seen_by("inception").moments("pool") for seen in (originals, decoded))
    return frechet(real, copy).distance


class Passes:
    """Each pass keeps its state in a folder of its own below `folder`, and is not repeated where it is whole.

    options  of the command: batch_size, save_every, cache, pixels
    """

    def __init__(
        self, subject: Subject, images: Samples, networks: dict[str, Any], folder: Path, options: Any, group: Processes
    ):
        self.subject, self.images, self.networks = subject, images, networks
        self.folder, self.options, self.group = folder, options, group

    @cached_property
    def encoded(self) -> Measured:
        """The originals, with their codes as a bank."""
        encoder = codes.Encoder(self.subject.tokenizer, self.subject.config["sha256"], self.subject.device)
        wanted = Wanted({"codes": {"codes": {BANK}}}, dtype="float32")
        return self._run("codes", self.images, {"codes": encoder}, wanted, "codes")

    @property
    def bank(self) -> np.ndarray:
        return self.encoded.bank("codes")

    def counts(self) -> list[Tensor]:
        """Of the codes, as `codes.count`."""
        return codes.count(self.bank, self.subject.tokenizer.spec)

    def originals(self, source: str) -> Compared:
        """As Inception sees them, if it is asked; measured once for all tokenizers."""
        reference = Reference(source, self.encoded.census.content, {}, self.images)
        o = self.options
        return reference.measure(self.networks, self._moments(), Path(o.cache), o.batch_size, self.group)

    def reconstructions(self, names: list[str]) -> Measured:
        """Their moments under Inception, and a number an image for psnr, ssim, lpips_alex and lpips_vgg."""
        functions = {name: f for name, f in {"psnr": psnr, "ssim": ssim}.items() if name in names}
        lpips = {name: network for name, network in self.networks.items() if name != "inception"}
        functions |= lpips
        rows = {name: self._beside(function) for name, function in functions.items()}
        wanted = self._moments() if "rfid" in names else Wanted({})
        decoded = self._decoded(name=" ".join(network.sha256 for network in lpips.values()))
        return self._run("decoded", decoded, self.networks, replace(wanted, rows=rows), "reconstructions")

    def perturbed(self, names: list[str], grid: Grid, originals: Compared) -> dict[str, dict[tuple[float, int], float]]:
        """For pfid and perturbed_psnr, where they are asked for, the value of each cell of the grid."""
        found: dict[str, dict] = {name: {} for name in PERTURBED if name in names}
        if not found:
            return {}
        rows = {"psnr": self._beside(psnr)} if "perturbed_psnr" in names else {}
        wanted = replace(self._moments() if "pfid" in names else Wanted({}), rows=rows)
        for (alpha, delta), change in perturbations(self.subject.tokenizer, grid).items():
            cell = f"{alpha:g}x{delta}"
            decoded = self._decoded(change, cell)
            measured = self._run(f"perturbed-{cell}", decoded, self.networks, wanted, f"perturbed {cell}")
            if "pfid" in names and self.group.is_first:
                found["pfid"][alpha, delta] = distance(originals, measured)
            if rows:
                entry = of_images(measured.rows["psnr"])
                if not entry:
                    raise ValueError(f"perturbed {cell}: all images came back exactly; leave out perturbed_psnr")
                found["perturbed_psnr"][alpha, delta] = entry["value"]
        return found

    def _decoded(self, change: Any = None, name: str = "") -> Samples:
        return reconstructed(self.subject, self.images, self.bank, self.options.pixels.quantize, change, name)

    def _moments(self) -> Wanted:
        return Wanted({"inception": {"pool": {MOMENTS}}} if "inception" in self.networks else {})

    def _beside(self, function: Any) -> Any:
        """A function of two sets of images as one of image numbers and reconstructions."""
        return lambda index, decoded: function(self.images.read(index), decoded).float()

    def _run(self, name: str, samples: Samples, networks: dict[str, Any], wanted: Wanted, title: str) -> Measured:
        made = Pass(self.folder / name, samples, networks, wanted, self.group)
        return made.run(self.options.batch_size, title, self.options.save_every)

    # --------------------------------------------------------------------------------------------------------- result

    def protocol(self, names: list[str], grid: Grid) -> dict:
        """What must be equal before two numbers are compared, but for the suite; JSON-ready.

        The images are known by their pixels, so it does not matter how they were stored or brought to their size.
        """
        vocab, images = self.subject.tokenizer.spec.vocab, self.images
        options = {"ssim": CARD} if "ssim" in names else {}
        options |= {name: grid.card(vocab) for name in PERTURBED if name in names}
        cards = {name: network.card for name, network in self.networks.items()}
        return {
            "count": images.count,
            "pixels": {"size": images.size, "quantize": self.options.pixels.quantize},
            "decoding": "float32 without TF32",
            "reference": {"sha256": self.encoded.census.content, "image_count": images.count},
            "networks": {name: {k: v for k, v in c.items() if k != "libraries"} for name, c in cards.items()},
            "scores": options,
        }

    def environment(self) -> dict:
        return card.environment(self.subject.device, self.group.count, self.networks)

    def picture(self, path: Path, count: int, title: str) -> None:
        """Originals over reconstructions over |difference|."""
        index = np.unique(spread(self.images.count, count))
        real, copy = self.images.read(index), self._decoded().read(index)
        rows = [("image", real), ("decoded", copy), ("|difference|", (real.int() - copy.int()).abs().byte())]
        save_grid(rows, path, title=f"{self.subject.config['tokenizer']['name']}: {title}")
