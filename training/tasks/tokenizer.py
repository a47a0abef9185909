"""task=tokenizer: train a tokenizer on images, score it on held-out ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from pointillist import CodeSpec
from pointillist.configs.options import find, option, to_dict
from pointillist.data.images import Images, to_float, to_uint8
from pointillist.data.loader import ImageBatches, all_images, spread
from pointillist.evaluation.reconstruction.codes import entropy, usage
from pointillist.training.load import make_tokenizer
from pointillist.training.options import HELDOUT, TrainOptions
from pointillist.training.pictures import save_grid


@dataclass
class Options(TrainOptions):
    task: Literal["tokenizer", "generator", "eagle"] = "tokenizer"
    tokenizer: Any = option("conv", "the tokenizer to train", part="tokenizers")


class Task:
    score = "psnr"

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options, self.device = options, device
        self.model = make_tokenizer(options.tokenizer, options.views.size)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ValueError(f"tokenizer={options.tokenizer.name} has nothing to train; it is fitted where it is used")
        self.model.to(device, memory_format=torch.channels_last)

    @cached_property
    def images(self) -> Images:
        return find("data", self.options.data.name).open_images(self.options.data, "train")

    @cached_property
    def train(self) -> ImageBatches:
        return ImageBatches(self.images, self.options.views, self.options.batch_size, self.options.seed)

    @cached_property
    def heldout(self) -> Tensor:
        """uint8 [n, 3, S, S]."""
        images = find("data", self.options.data.name).open_images(self.options.data, "heldout")
        return all_images(images, self.options.views, limit=HELDOUT)

    def config(self) -> dict:
        """What config.json must say to rebuild the model, and what it learned from."""
        return {
            "kind": "tokenizer",
            "tokenizer": to_dict(self.options.tokenizer),
            "image_size": self.options.views.size,
            "spec": asdict(self.model.spec),
            "data": {**to_dict(self.options.data), "fingerprint": self.images.fingerprint},
        }

    def prepare(self) -> None:
        """Data-dependent initialisation, once before the first step."""
        if hasattr(self.model, "fit"):
            self.model.fit(to_float(all_images(self.images, self.options.views, limit=256)).to(self.device))

    def batch(self, step: int) -> dict[str, Tensor]:
        images = to_float(self.train.batch(step)["images"])
        return {"images": images.to(self.device, memory_format=torch.channels_last)}

    def example(self) -> dict[str, Tensor]:
        """One image, for counting FLOPs."""
        size = self.options.views.size
        return {"images": torch.zeros(1, 3, size, size, device=self.device)}

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        """On held-out images: mean PSNR in dB and what `code_statistics` says; stochastic codes decode their mean."""
        codes, decoded = zip(*(self._reconstruct(model, x) for x in self.heldout.split(128)), strict=True)
        decibels = psnr(self.heldout, torch.cat(decoded)).mean()
        return {"psnr": float(decibels), "floor_psnr": self.floor} | code_statistics(torch.cat(codes), model.spec)

    def _reconstruct(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images -> their codes and the uint8 images that these decode to."""
        codes = model.encode(to_float(images).to(self.device))
        point = codes.chunk(2, -1)[0] if model.spec.stochastic else codes
        return codes.cpu(), to_uint8(model.decode(point)).cpu()

    @cached_property
    def floor(self) -> float:
        """Held-out PSNR of k-means patches on the finest grid: a trained tokenizer that stays below it is broken.

        As many patches as one book has codes, 1,000 for continuous codes. Coarser scales, further books and continuous
        values are what the tokenizer has on top, so the floor is one for them too, and further below.
        """
        spec, size = self.model.spec, self.options.views.size
        vocab = spec.vocab[0] if spec.vocab else 1000
        options = find("tokenizers", "patches").Options(patch=size // spec.grids[-1][0], vocab=vocab)
        patches = make_tokenizer(options, size)
        patches.fit(to_float(all_images(self.images, self.options.views, limit=2000)))
        return float(psnr(self.heldout, to_uint8(patches.decode(patches.encode(to_float(self.heldout))))).mean())

    @torch.no_grad()
    def picture(self, model: Any, path: Path) -> None:
        """Held-out images above their reconstructions."""
        images = self.heldout[spread(len(self.heldout), 48)]
        decoded = self._reconstruct(model, images)[1]
        rows = zip(images.split(16), decoded.split(16), strict=True)
        titled = [row for real, copy in rows for row in (("held-out", real), ("decoded", copy))]
        save_grid(titled, path, title=f"{self.options.tokenizer.name}: held-out images and their reconstructions")


def psnr(images: Tensor, decoded: Tensor) -> Tensor:
    """[n] decibels, 10 log10(255^2 / mse), of uint8 images [n, 3, S, S]; scores average these, not the errors."""
    error = (images.double() - decoded.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error.clamp_min(1e-10))


def code_statistics(codes: Tensor, spec: CodeSpec) -> dict[str, float]:
    """What the codes [n, *code_shape] of n images look like.

    discrete    usage: share of a book that occurs; perplexity: exp(entropy) of a book's code frequencies. Both are
                means over books, of the entropy for perplexity
    stochastic  latent_std of what the loader draws; noise_std, the part of it that is noise; kl: nats a channel from
                N(0, 1)
    """
    if spec.stochastic:
        mean, std = codes.double().chunk(2, -1)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.clamp_min(1e-12).log()).mean()
        latent = (mean.var() + std.square().mean()).sqrt()
        return {"latent_std": float(latent), "noise_std": float(std.square().mean().sqrt()), "kl": float(kl)}
    if not spec.vocab:
        return {"latent_std": float(codes.double().std())}
    books = codes.reshape(-1, len(spec.vocab)).unbind(-1)
    counts = [torch.bincount(book.cpu(), minlength=size) for book, size in zip(books, spec.vocab, strict=True)]
    return {
        "usage": fmean(usage(book) for book in counts),
        "perplexity": exp(fmean(entropy(book) for book in counts)),
    }
