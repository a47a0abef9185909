"""task=tokenizer: train a tokenizer on images, score it on held-out ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pointillist.configs.options import find, option, to_dict
from pointillist.data.images import to_float, to_uint8
from pointillist.data.loader import ImageBatches, all_images
from pointillist.training.load import make_tokenizer, provenance
from pointillist.training.options import TrainOptions
from pointillist.training.pictures import save_grid


@dataclass
class Options(TrainOptions):
    task: Literal["tokenizer", "generator"] = "tokenizer"
    tokenizer: Any = option("conv", "the tokenizer to train", part="tokenizers")


class Task:
    score = "psnr"

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options, self.device = options, device
        self.model = make_tokenizer(options.tokenizer, options.views.size)
        self.model.to(device, memory_format=torch.channels_last)
        data = find("data", options.data.name)
        self.train = ImageBatches(
            data.open_images(options.data, "train"), options.views, options.batch_size, options.seed
        )
        self.heldout = to_float(all_images(data.open_images(options.data, "heldout"), options.views))

    def config(self) -> dict:
        """What config.json must say to rebuild the model."""
        return {
            "kind": "tokenizer",
            "tokenizer": to_dict(self.options.tokenizer),
            "image_size": self.options.views.size,
            "spec": asdict(self.model.spec),
            "data": to_dict(self.options.data),
            **provenance(),
        }

    def prepare(self) -> None:
        """Data-dependent initialisation, once before the first step."""
        if hasattr(self.model, "fit"):
            images = self.train.batch(0)["images"] if self.options.steps else self.heldout
            self.model.fit(to_float(images).to(self.device))

    def batch(self, step: int) -> dict[str, Tensor]:
        images = to_float(self.train.batch(step)["images"])
        return {"images": images.to(self.device, memory_format=torch.channels_last)}

    def example(self) -> dict[str, Tensor]:
        """One image, for counting FLOPs."""
        return {"images": self.heldout[:1].to(self.device)}

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        """On held-out images: mean PSNR in dB, share of codes used, perplexity of the code distribution."""
        codes = torch.cat([model.encode(x.to(self.device)) for x in self.heldout.split(128)])
        decoded = torch.cat([model.decode(c) for c in codes.split(128)]).cpu()
        scores = {"psnr": psnr(self.heldout, decoded), "floor_psnr": self.floor}
        return scores | code_statistics(codes, model.spec.vocab[0])

    @cached_property
    def floor(self) -> float:
        """Held-out PSNR of k-means patches with as many codes: a trained tokenizer that stays below it is broken."""
        spec, size = self.model.spec, self.options.views.size
        patches = patches_tokenizer(size // spec.grids[-1][0], spec.vocab[0], size)
        patches.fit(to_float(all_images(self.train.images, self.options.views, limit=2000)))
        return psnr(self.heldout, patches.decode(patches.encode(self.heldout)))

    @torch.no_grad()
    def picture(self, model: Any, path: Path) -> None:
        """Held-out images above their reconstructions."""
        images = self.heldout[:: max(len(self.heldout) // 48, 1)][:48]
        decoded = model.decode(model.encode(images.to(self.device))).cpu()
        rows = zip(to_uint8(images).split(16), to_uint8(decoded).split(16), strict=True)
        titled = [row for real, copy in rows for row in (("held-out", real), ("decoded", copy))]
        save_grid(titled, path, title=f"{self.options.tokenizer.name}: held-out images and their reconstructions")


def psnr(images: Tensor, decoded: Tensor) -> float:
    """Mean over images of 10 log10(peak^2 / mse), pixels in [-1, 1] rounded to 8 bits first, as they are shown."""
    error = (to_uint8(images).double() - to_uint8(decoded).double()).square().mean((1, 2, 3))
    return float((10 * torch.log10(255**2 / error.clamp_min(1e-10))).mean())


def code_statistics(codes: Tensor, vocab: int) -> dict[str, float]:
    """Share of the codebook that occurs, and exp(entropy) of the code frequencies."""
    share = torch.bincount(codes.flatten().cpu(), minlength=vocab).double() / codes.numel()
    entropy = -(share * share.clamp_min(1e-300).log()).sum()
    return {"usage": float((share > 0).double().mean()), "perplexity": float(entropy.exp())}


def patches_tokenizer(patch: int, vocab: int, image_size: int) -> Any:
    return make_tokenizer(find("tokenizers", "patches").Options(patch=patch, vocab=vocab), image_size)
