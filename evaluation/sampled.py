"""Images straight from a generator: scored without being written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pointillist.configs.options import pick_device
from pointillist.evaluation.pixels import Pixels, card, finish
from pointillist.evaluation.samples import Samples
from pointillist.sampling.trace import Trace
from pointillist.training import checkpoint
from pointillist.training.jobs import Job, codes_of, decode


def kind_of_run(path: str | Path) -> str:
    """Of a run's folder or checkpoint: "generator", "tokenizer", ...; "" for anything else. ValueError if damaged."""
    folder = Path(path)
    if not (folder / "config.json").is_file() and not any(folder.glob("step_*/config.json")):
        return ""
    return str(checkpoint.read_config(checkpoint.locate(path)).get("kind", ""))


def sampled(job: Job, pixels: Pixels) -> Samples:
    """The images of a sampling request; image i is what sample.py would have written as number i."""
    o, device = job.options, pick_device(job.options.device)
    trace = Trace()

    def read(index: np.ndarray) -> Tensor:
        codes = codes_of(job, torch.from_numpy(index).to(device), trace)
        return finish(decode(job, codes), pixels).cpu()

    size = pixels.size or job.config["image_size"]
    asked = json.dumps(job.request, sort_keys=True)
    about = {"format": "sampler", "pixels": card(pixels, size)}
    identity = hashlib.sha256(asked.encode()).hexdigest()
    return Samples(
        o.run, job.folder.parent, o.num_images, size, job.labels.numpy(), 0, identity, about, read, stored=False
    )


def about_run(job: Job) -> dict:
    """What is scored, for the protocol card; JSON-ready."""
    config = job.config
    return {
        "checkpoint": {"path": str(job.folder), "sha256": config["sha256"], "step": config["step"]},
        "weights": "EMA",  # the average is what train.py saves
        "tokenizer": config["tokenizer"],
        "decoded": "float32, TF32 off",
        "request": job.request,
    }
