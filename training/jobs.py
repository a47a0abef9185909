"""A sampling request made ready: options -> checked models, law, noise and labels -> codes and images.

sample.py writes the images, evaluate.py measures them without writing any.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pointillist.configs.files import read_json
from pointillist.configs.options import find, pick_device, to_dict
from pointillist.data.images import to_uint8
from pointillist.sampling.labels import labels_of
from pointillist.sampling.laws import Aided, Inpaint, Ordered, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training import checkpoint
from pointillist.training.given import given_order, kept_codes
from pointillist.training.load import check_sampler, load_generator, load_tokenizer, tokenizer_of, versions
from pointillist.training.precision import full_float32
from pointillist.training.request import FREE, Request
from pointillist.training.samples import SampleFiles, git_commit


@dataclass(frozen=True)
class Models:
    """What was trained: generators and tokenizer on the device, config.json of the generators, their folders."""

    generator: Any
    config: dict
    folder: Path
    tokenizer: Any
    draft: Any = None
    draft_identity: dict | None = None


@lru_cache(maxsize=1)
def open_models(run: str, tokenizer: str, draft: str, device: str, precision: str, changes: str) -> Models:
    """Kept for the next point of a sweep; changes: the options unit and model as JSON. Raises ValueError, OSError."""
    to, dtype = pick_device(device), {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[precision]
    folder = checkpoint.locate(run)
    generator, config = load_generator(folder, to, *json.loads(changes))
    codec, _ = load_tokenizer(tokenizer_of(config, folder, tokenizer), to)
    generator.cast(dtype)
    if not draft:
        return Models(generator, config, folder, codec)
    beside = checkpoint.locate(draft)
    same = checkpoint.read_config(beside).get("kind") == "generator"
    same = same and checkpoint.read_config(beside)["unit"]["name"] == config["unit"]["name"]
    drafter, other = load_generator(beside, to, json.loads(changes)[0] if same else None)
    mine, theirs = config["tokenizer"]["sha256"], other["tokenizer"]["sha256"]
    if mine != theirs or config["classes"] != other["classes"]:
        raise ValueError(
            f"draft={draft} was trained on codes of tokenizer {theirs[:8]}, {len(other['classes'])} classes; {run} on "
            f"{mine[:8]}, {len(config['classes'])} classes; choose a draft of the same tokenizer and data"
        )
    if other["kind"] == "eagle":
        if other["target"]["sha256"] != config["sha256"]:
            raise ValueError(
                f"draft={draft} is a head of {other['target']['path']} ({other['target']['sha256'][:8]}), not of {run} "
                f"({config['sha256'][:8]}); choose a head that was trained on it"
            )
        drafter.shared.network = generator  # held once
    drafter.cast(dtype)
    identity = {"path": str(beside), "sha256": other["sha256"], "step": other["step"]}
    return Models(generator, config, folder, codec, drafter, identity)


@dataclass(frozen=True)
class Job:
    """A request that has been checked: the law to sample, how, and what its files must say to be continued."""

    options: Request
    models: Models
    sampler: Any
    law: Any
    noise: Any
    labels: Any
    request: dict
    above: list  # rows of the grid: (name, uint8 images [n, 3, S, S])

    @property
    def folder(self) -> Path:
        return self.models.folder

    @property
    def config(self) -> dict:
        return self.models.config


def prepare(o: Request) -> Job:
    """Check everything that can be checked before the first image; writes nothing. Raises ValueError, OSError."""
    if not o.run:
        raise ValueError("which run? give the folder that train.py wrote: python sample.py RUN key=value ...")
    if o.num_images < 1 or o.batch_size < 1:
        raise ValueError(f"num_images and batch_size must be at least 1, got {o.num_images}, {o.batch_size}")

    drafted = getattr(getattr(o.sampler, "drafter", None), "name", "") == "model"
    changes = json.dumps([o.unit, o.model])
    m = open_models(o.run, o.tokenizer, o.draft if drafted else "", o.device, o.precision, changes)
    generator, config, given, above, order, kept = m.generator, m.config, {}, [], None, None
    if o.order:
        order, given["order_sha256"] = given_order(o.order, generator, o.num_images, pick_device(o.device))
    if o.image or o.mask:
        kept = kept_codes(o.image, o.mask, generator, m.tokenizer, config["image_size"])
        given["kept_sha256"], above = kept.sha256, [("given", kept.pictures)]

    def asked_of(network: Any) -> Any:
        law = target(network, o.guidance, o.temperature, o.top_k, o.top_p, o.min_p, o.guidance_interval)
        law = law if order is None else Ordered(law, order)
        return law if kept is None else Inpaint(law, kept.codes, kept.known)

    draft = asked_of(m.draft) if m.draft else None
    law = Aided(asked_of(generator), draft, getattr(m.tokenizer, "codebook", None))
    check_sampler(o.sampler, law, scheduled=bool(o.order or o.unit))

    noise = Noise(o.seed)
    labels = labels_of(o.classes, o.num_images, config["classes"], config["class_counts"], noise)
    asked = to_dict(o)
    request = {f.name: asked[f.name] for f in fields(Request) if f.name not in FREE} | given
    request |= {"checkpoint": config["sha256"], "step": config["step"]}
    request |= {"draft_sha256": m.draft_identity["sha256"]} if m.draft else {}
    return Job(o, m, find("sampling", o.sampler.name), law, noise, labels, request, above)


def prepare_one(o: Request) -> Job:
    """As `prepare`, for a request that is no point of a sweep: a draft that nothing uses is a mistake."""
    job = prepare(o)
    if o.draft and not job.models.draft:
        raise ValueError(f"sampler={o.sampler.name} drafts by itself; leave draft= or add sampler.drafter=model")
    return job


# -------------------------------------------------------------------------------------------------------------- sample


def rehearse(job: Job) -> None:
    """One image, thrown away: what only shows in sampling is said before a sweep begins. Raises ValueError."""
    codes_of(job, torch.zeros(1, dtype=torch.int64, device=pick_device(job.options.device)), Trace())


def codes_of(job: Job, images: Any, trace: Any) -> Any:
    """Codes [B, N, ...] of image numbers [B]; the trace counts what they cost."""
    with trace.timed(images.device):
        cond = job.labels[images.cpu()].to(images.device)
        codes = job.sampler.sample(job.law, cond, job.noise, images, trace, job.options.sampler)
    return codes if job.models.generator.spec.vocab else codes.float()


def decode(job: Job, codes: Any) -> Any:
    """Codes [B, N, ...] -> images float32 [B, 3, S, S] in [-1, 1]."""
    with full_float32():
        return job.models.tokenizer.decode(codes)


def draw(job: Job, out: Path) -> dict:
    """Sample what is missing of a job's images into `out`; returns what sample.json says."""
    o, m, device = job.options, job.models, pick_device(job.options.device)
    config = job.config
    files = SampleFiles(out, job.request, job.labels.numpy(), config["image_size"], m.generator.spec)
    if files.is_finished:
        return read_json(out / "sample.json")
    missing, counted = files.missing(), files.counted()
    trace = Trace.restore(counted) if counted else Trace()
    bar = tqdm(total=o.num_images, initial=o.num_images - len(missing), unit="image", dynamic_ncols=True)
    for images in torch.as_tensor(missing, device=device).split(o.batch_size) if len(missing) else ():
        codes = codes_of(job, images, trace)
        decoded = to_uint8(decode(job, codes)).cpu().numpy()
        files.write(images.cpu().numpy(), decoded, codes.cpu().numpy(), trace.summary())
        bar.update(len(images))
    bar.close()
    report = {
        "options": to_dict(o),
        "law": getattr(job.sampler, "claim", lambda _: "exact")(o.sampler),
        "checkpoint": {"path": str(m.folder), "sha256": config["sha256"], "step": config["step"]},
        "draft": m.draft_identity,
        "tokenizer": config["tokenizer"],
        "spec": config["spec"],
        "classes": config["classes"],
        "trace": trace.summary(),
        "device": str(device),
        "versions": versions(),
        "git": git_commit(),
    }
    files.finish(report, config["classes"], f"{o.run} step {config['step']}, guidance {o.guidance}", job.above)
    return report
