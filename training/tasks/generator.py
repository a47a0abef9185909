"""task=generator: train p(codes | class) on a frozen tokenizer's codes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pointillist.configs.options import find, option, to_dict
from pointillist.data.codes import Codes, open_codes
from pointillist.data.crops import Views
from pointillist.data.images import to_uint8
from pointillist.data.loader import spread
from pointillist.models.generator import Options as GeneratorOptions
from pointillist.sampling import ancestral
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.load import load_tokenizer, make_generator
from pointillist.training.options import HELDOUT, TrainOptions
from pointillist.training.pictures import save_grid


@dataclass
class Options(TrainOptions):
    task: Literal["tokenizer", "generator", "eagle"] = "generator"
    tokenizer: str = option("", "run folder of the frozen tokenizer")
    codes: str = option("", "folder of the code cache; default: codes/ beside the tokenizer's checkpoints")
    model: GeneratorOptions = option(GeneratorOptions(), "the transformer")
    unit: Any = option("token", "what is predicted next", part="models/units")
    checkpointing: int = option(0, "k: every k-th block is computed again in the backward pass, for memory; 0: none")


class Task:
    def __init__(self, options: Options, device: torch.device) -> None:
        if not options.tokenizer:
            raise ValueError("a generator needs tokenizer=RUN, the folder of a trained tokenizer")
        if options.model.caption_length:
            raise ValueError("task=generator trains on classes, not on captions; leave model.caption_length=0")
        self.options, self.device = options, device
        self.tokenizer, self.tokenizer_config = load_tokenizer(options.tokenizer, device)
        if self.tokenizer_config["image_size"] != options.views.size:
            raise ValueError(
                f"the tokenizer was trained at {self.tokenizer_config['image_size']} pixels, "
                f"views.size is {options.views.size}; make them equal"
            )
        self.images = {s: find("data", options.data.name).open_images(options.data, s) for s in ("train", "heldout")}
        classes = len(self.images["train"].classes)
        self.spec, lift = self.tokenizer.spec, getattr(self.tokenizer, "lift", None)
        self.score = "nll" if self.spec.vocab else "flow"
        self.model = make_generator(options.model, options.unit, self.spec, classes, lift).to(device)
        self.model.transformer.checkpointing = options.checkpointing

    @cached_property
    def train(self) -> Codes:
        return self._codes("train", self.options.views)

    @cached_property
    def heldout(self) -> Codes:
        return self._codes("heldout", Views(size=self.options.views.size, flip=False))

    def _codes(self, split: str, views: Views) -> Codes:
        images, config = self.images[split], self.tokenizer_config
        identity = {"name": config["tokenizer"]["name"], "sha256": config["sha256"]}
        key = sha256(repr((identity, images.fingerprint, to_dict(views))).encode()).hexdigest()[:8]
        folder = f"{images.name.replace('/', '-')}-{key}"
        o = self.options
        path = Path(o.codes) / split if o.codes else Path(o.tokenizer) / "codes" / folder
        return open_codes(path, self.tokenizer, identity, images, views, device=self.device)

    def config(self) -> dict:
        """What config.json must say to rebuild the model and decode its samples, and what it learned from."""
        train = self.images["train"]
        return {
            "kind": "generator",
            "model": to_dict(self.options.model),
            "unit": to_dict(self.options.unit),
            "spec": asdict(self.spec),
            "classes": list(train.classes),
            "class_counts": np.bincount(train.labels, minlength=len(train.classes)).tolist(),
            "image_size": self.options.views.size,
            "tokenizer": {
                "path": self.options.tokenizer,
                "sha256": self.tokenizer_config["sha256"],
                "name": self.tokenizer_config["tokenizer"]["name"],
            },
            "data": {**to_dict(self.options.data), "fingerprint": train.fingerprint},
        }

    def prepare(self) -> None:
        """Nothing to initialise from data."""

    def batch(self, step: int) -> dict[str, Any]:
        batch = self.train.batch(step, self.options.batch_size, self.options.seed)
        progress = step / self.options.steps
        return {"codes": batch["codes"].to(self.device), "cond": batch["labels"].to(self.device), "progress": progress}

    def example(self) -> dict[str, Tensor]:
        """One image's codes, for counting FLOPs."""
        codes = torch.zeros(1, *self.spec.shape, dtype=torch.long if self.spec.vocab else None, device=self.device)
        return {"codes": codes, "cond": torch.zeros(1, dtype=torch.long, device=self.device)}

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        """On plain views of held-out images, and on as many training images: nats a code (units that draw orders or
        masks: drawn from one seed), or the squared error of a flow."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.options.seed)
            return {self.score: self._mean(model, self.heldout), f"train_{self.score}": self._mean(model, self.train)}

    def _mean(self, model: Any, codes: Codes) -> float:
        rows = spread(len(codes), min(len(self.heldout), HELDOUT))
        total = 0.0
        for part in np.array_split(rows, -(-len(rows) // 128)):
            cond = torch.as_tensor(codes.labels[part], device=self.device)
            batch = codes.rows(part).to(self.device)
            batch = batch.chunk(2, dim=-1)[0] if self.spec.stochastic else batch  # means
            total += float(model.loss(batch, cond)["loss"]) * len(part)
        return total / len(rows)

    def picture(self, model: Any, path: Path, each: int = 10) -> None:
        """Samples of every class (of the first twelve) with guidance 2."""
        names = self.images["train"].classes
        classes = torch.arange(min(len(names), 12), device=self.device).repeat_interleave(each)
        law, images = target(model, 2.0), torch.arange(len(classes), device=self.device)
        codes = ancestral.sample(law, classes, Noise(self.options.seed), images, Trace(), ancestral.Options())
        decoded = to_uint8(self.tokenizer.decode(codes if self.spec.vocab else codes.float())).cpu()
        rows = [(names[i], decoded[i * each : (i + 1) * each]) for i in range(len(decoded) // each)]
        save_grid(rows, path, title=f"{self.options.unit.name}: samples, guidance 2")
