"""Images straight from a generator: scored without being written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pointillist.configs.options import pick_device
from pointillist.data.pixels import card
from pointillist.evaluation.card import weights_of
from pointillist.evaluation.samples import Samples
from pointillist.sampling.trace import Trace
from pointillist.training import checkpoint
from pointillist.training.jobs import Job, codes_of, images_of
from pointillist.training.precision import decoded_in


def kind_of_run(path: str | Path) -> str:
    """Of a run's folder or checkpoint: "generator", "tokenizer", ...; "" for anything else. ValueError if damaged."""
    folder = Path(path)
    if not (folder / "config.json").is_file() and not any(folder.glob("step_*/config.json")):
        return ""
    return str(checkpoint.read_config(checkpoint.locate(path)).get("kind", ""))


def sampled(job: Job) -> Samples:
    """The images of a sampling request; image i is what sample.py would have written as number i."""
    o, device = job.options, pick_device(job.options.device)
    trace = Trace()

    def read(index: np.ndarray) -> Tensor:
        codes = codes_of(job, torch.from_numpy(index).to(device), trace)
        return images_of(job, codes).cpu()

    asked = json.dumps(job.request, sort_keys=True)
    about = {"format": "sampler", "pixels": card(o.pixels, job.size)}
    identity = hashlib.sha256(asked.encode()).hexdigest()
    source, labels = o.zoo or o.run, job.labels.numpy()
    return Samples(source, job.folder.parent, o.num_images, job.size, labels, 0, identity, about, read, stored=False)


def about_run(job: Job) -> dict:
    """What is scored, for the protocol card; JSON-ready."""
    config = job.config
    return {
        "checkpoint": {"path": str(job.folder), "sha256": config["sha256"], "step": config["step"]},
        "weights": weights_of(config),
        "tokenizer": config["tokenizer"],
        "decoded": decoded_in(job.options.precision, job.options.decoder_precision),
        "request": job.request,
        "published": job.published or None,
    }
