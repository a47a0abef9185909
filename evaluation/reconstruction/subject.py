"""A tokenizer, the images it is tried on, and what it makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointillist.configs.options import to_dict
from pointillist.data.pixels import Pixels, finish
from pointillist.evaluation.reconstruction.codes import LARGEST, unpack
from pointillist.evaluation.reference import data_images
from pointillist.evaluation.samples import Samples, open_samples
from pointillist.training import checkpoint
from pointillist.training.load import load_tokenizer
from pointillist.training.precision import full_float32


@dataclass(frozen=True, eq=False)
class Subject:
    """
    tokenizer  frozen, on `device`
    config     its config.json
    folder     of its checkpoint
    """

    tokenizer: Any
    config: dict
    folder: Path
    device: torch.device

    @property
    def is_discrete(self) -> bool:
        return bool(self.tokenizer.spec.vocab)

    @property
    def trained_on(self) -> str:
        """The identity that `data_images` gives to the images of the training."""
        return f"{self.config['data']['fingerprint']}-{self.config['image_size']}"

    def card(self) -> dict:
        """What is scored, JSON-ready."""
        about = {"path": str(self.folder), "sha256": self.config["sha256"], "step": self.config["step"]}
        codes = "their mean" if self.tokenizer.spec.stochastic else "as encoded"
        return {"checkpoint": about, "weights": "EMA", "tokenizer": self.config["tokenizer"], "decoded": codes}


def open_subject(run: str, device: torch.device) -> Subject:
    """Raises FileNotFoundError, ValueError: no such run, one of another kind, too many codes."""
    folder = checkpoint.locate(run)
    tokenizer, config = load_tokenizer(folder, device)
    if max(tokenizer.spec.vocab, default=0) > LARGEST:
        raise ValueError(f"{run} has books of {max(tokenizer.spec.vocab)} codes; more than {LARGEST} cannot be counted")
    return Subject(tokenizer, config, folder, device)


# -------------------------------------------------------------------------------------------------------------- images


def open_images(subject: Subject, path: str, data: Any, split: str, pixels: Pixels) -> tuple[Samples, str]:
    """The originals, cropped to the tokenizer's size, and their name.

    path  images of any kind that can be scored; "" takes a data set
    data  Options of a data set; or a dict of what changes in the training's, which must still hold the same images

    Raises FileNotFoundError, ValueError.
    """
    size = subject.config["image_size"]
    if path:
        samples = open_samples(path, replace(pixels, size=pixels.size or (0 if pixels.resize == "none" else size)))
        if samples.size != size:
            raise ValueError(
                f"{path} has images of {samples.size} pixels, this tokenizer is for {size}: pixels.resize=adm"
                + (f" pixels.size={size}" if pixels.size else "")
            )
        return once(samples), path
    if isinstance(data, dict) and "data" not in subject.config:
        raise ValueError("this tokenizer does not say what it was trained on; give images=FOLDER, or data=NAME")
    trained = {key: value for key, value in subject.config.get("data", {}).items() if key != "fingerprint"}
    values = trained | data if isinstance(data, dict) else to_dict(data)
    if isinstance(data, dict):
        _check_same(values, size, subject)
    return once(data_images(values["name"], values, split, size)), f"{values['name']}/{split}"


def _check_same(values: dict, size: int, subject: Subject) -> None:
    """ValueError where the train images are others: what is held out now may have been trained on."""
    found = data_images(values["name"], values, "train", size).identity
    if found != subject.trained_on:
        raise ValueError(
            f"the {values['name']} data are not those of the training any more (fingerprint {found[:8]}, was "
            f"{subject.trained_on[:8]}); to take them as they are, say data={values['name']}"
        )


def once(samples: Samples) -> Samples:
    """The same, remembering the last images that were read: every score of a batch asks for its originals."""
    last: dict[bytes, Tensor] = {}

    def read(index: np.ndarray) -> Tensor:
        key = index.tobytes()
        if key not in last:
            found = samples.read(index)
            last.clear()
            last[key] = found
        return last[key]

    return replace(samples, read=read)


# ----------------------------------------------------------------------------------------------------- reconstructions

Change = Callable[[Tensor, Tensor], Tensor]


def reconstructed(
    subject: Subject, images: Samples, bank: np.ndarray, quantize: str, change: Change | None = None, name: str = ""
) -> Samples:
    """What the codes of `images` decode to, as uint8.

    bank    their codes, as `codes.Encoder` gives them
    change  codes and image numbers -> the codes that are decoded; `name` tells one change from another
    """
    spec, policy = subject.tokenizer.spec, Pixels(quantize=quantize)

    @torch.no_grad()
    def read(index: np.ndarray) -> Tensor:
        codes = unpack(bank[index], spec).to(subject.device)
        if change is not None:
            codes = change(codes, torch.from_numpy(index).to(subject.device))
        with full_float32():
            return finish(subject.tokenizer.decode(codes), policy).cpu()

    made_of = [images.identity, images.card, subject.config["sha256"], quantize, name]
    identity = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    card = {"format": "reconstructions", "pixels": {"size": images.size, "quantize": quantize}}
    where = str(subject.folder), subject.folder.parent
    return Samples(*where, images.count, images.size, None, 0, identity, card, read, stored=False)
