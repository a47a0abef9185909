"""A sampling request made ready: options -> checked models, law, noise and labels -> codes and images.

sample.py writes the images, evaluate.py measures them without writing any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pointillist.configs.files import read_json
from pointillist.configs.options import find, pick_device, to_dict
from pointillist.data.images import to_float
from pointillist.data.pixels import DECODED, finish, shown
from pointillist.models.generator import Generator
from pointillist.sampling.labels import labels_of
from pointillist.sampling.laws import Aided, Inpaint, Ordered, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.behind import Behind
from pointillist.training.captions import Captions, read_captions
from pointillist.training.given import given_order, kept_codes
from pointillist.training.load import check_sampler, versions
from pointillist.training.models import RANDOM, Models, Source, open_models
from pointillist.training.precision import HALF, full_float32, products
from pointillist.training.request import FREE, Request, differing
from pointillist.training.samples import SampleFiles, git_commit

MEANINGLESS = "random weights: these images mean nothing, only what they cost does"


@dataclass(frozen=True)
class Job:
    """A request that has been checked: the law to sample, how, and what its files must say to be continued."""

    options: Request
    models: Models
    sampler: Any
    law: Any
    noise: Any
    labels: Any
    names: list[str]  # of the labels: classes or captions
    request: dict
    above: list  # rows of the grid: (name, uint8 images [n, 3, S, S])

    @property
    def folder(self) -> Path:
        return self.models.folder

    @property
    def config(self) -> dict:
        return self.models.config

    @property
    def size(self) -> int:
        """Pixels a side of the images that are written or scored."""
        return self.options.pixels.size or self.config["image_size"]

    @property
    def published(self) -> str:
        """The published row that the images repeat; "" where a word of the request, a sampler that is not exact or
        somebody else's weights make others of them."""
        foreign = not self.config.get("original", {"address": True})["address"]
        others = self.is_random or foreign or self.claim != "exact" or differing(self.options)
        return "" if others else self.options.published

    @property
    def claim(self) -> str:
        """What the sampler says of its images' law."""
        return getattr(self.sampler, "claim", lambda _: "exact")(self.options.sampler)

    @property
    def is_random(self) -> bool:
        return bool(self.options.zoo) and self.options.weights == RANDOM


def prepare(o: Request) -> Job:
    """Check everything that can be checked before the first image; writes nothing. Raises ValueError, OSError."""
    check(o)
    drafted = getattr(getattr(o.sampler, "drafter", None), "name", "") == "model"
    draft, changes = o.draft if drafted else "", json.dumps([o.unit, o.model])
    rows = 2 * min(o.batch_size, o.num_images)  # guided
    where = (o.run, o.zoo, o.weights, o.tokenizer, draft, o.device)
    m = open_models(Source(*where, o.precision, changes, rows, o.decoder_precision, o.compile))
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

    noise, names = Noise(o.seed), config["classes"]
    if (captions := captions_of(o, generator)) is not None:
        names, given["captions_sha256"] = captions.texts, _hold(captions, generator, m.draft)
    labels = labels_of(o.classes, o.num_images, names, config["class_counts"], noise)
    asked = to_dict(o)
    request = {f.name: asked[f.name] for f in fields(Request) if f.name not in FREE} | given
    request |= {"checkpoint": config["sha256"], "step": config["step"]}
    request |= {"draft_sha256": m.draft_identity["sha256"]} if m.draft else {}
    return Job(o, m, find("sampling", o.sampler.name), law, noise, labels, names, request, above)


def captions_of(o: Request, generator: Any) -> Captions | None:
    """What a generator of captions is to draw, None for one of classes. Raises ValueError, FileNotFoundError."""
    length = generator.options.caption_length
    if not length:
        if o.captions or o.prompt or o.text_encoder:
            raise ValueError("this generator draws classes, not captions; leave captions=, prompt= and text_encoder=")
        return None
    if bool(o.captions) == bool(o.prompt):
        raise ValueError("this generator draws captions: give captions=FILE, or prompt=TEXT text_encoder=FOLDER")
    device = next(generator.parameters()).device
    source = o.captions or [o.prompt]
    return read_captions(source, o.text_encoder, length, generator.options.caption_channels, device)


def _hold(captions: Captions, *generators: Any) -> str:
    """Let labels mean these captions; a hash of them."""
    for generator in generators:
        if not isinstance(generator, Generator):  # no draft, or a head, which reads its target's
            continue
        device = next(generator.parameters()).device
        generator.caption(captions.features.to(device), captions.mask.to(device))
    content = sha256(json.dumps(captions.texts).encode())
    for part in (captions.features, captions.mask):
        content.update(part.cpu().numpy().tobytes())
    return content.hexdigest()


def check(o: Request) -> None:
    """What can be said without opening anything."""
    if not (o.run or o.zoo):
        raise ValueError(
            "which run? python sample.py RUN key=value ..., or zoo=NAME weights=FOLDER, or a recipe's YAML"
        )
    if o.run and o.zoo:
        raise ValueError(f"run={o.run} and zoo={o.zoo} are two generators; give one of them")
    if o.weights and not o.zoo:
        raise ValueError(f"weights={o.weights} are of which checkpoint? add zoo=NAME; a run brings its own weights")
    if o.num_images < 1 or o.batch_size < 1:
        raise ValueError(f"num_images and batch_size must be at least 1, got {o.num_images}, {o.batch_size}")
    o.pixels.check()
    if o.precision == HALF and o.decoder_precision != "fp32":
        raise ValueError(f"precision={HALF} decodes so too; leave decoder_precision={o.decoder_precision} out")
    if tuple(o.pixels.value_range) != DECODED:
        bounds = shown(o.pixels.value_range)
        raise ValueError(f"pixels.value_range={bounds} is for stored floats; a decoder's are in {shown(DECODED)}")


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
    with trace.timed(images.device), products(job.options.precision, images.device):
        cond = job.labels[images.cpu()].to(images.device)
        codes = job.sampler.sample(job.law, cond, job.noise, images, trace, job.options.sampler)
    return codes if job.models.generator.spec.vocab else codes.float()


def decode(job: Job, codes: Any) -> Any:
    """Codes [B, N, ...] -> images [B, 3, S, S] in [-1, 1], float32 but for precision=fp16_autocast.

    decoder_precision is in the decoder's weights, which the tokenizer brings its vectors to (training/models.py).
    """
    with torch.inference_mode(), full_float32(), products(job.options.precision, codes.device):
        return job.models.tokenizer.decode(codes)


def images_of(job: Job, codes: Any) -> Any:
    """Codes [B, N, ...] -> uint8 [B, 3, size, size] as the request's pixels want them."""
    return finish(decode(job, codes), job.options.pixels)


def finished(job: Job, images: Any, trace: Any) -> Iterator[tuple[Any, Any, dict]]:
    """Image numbers [b] of `images`, their codes [b, N, ...], and what the trace said when these were all that was
    finished: batch by batch, or where images finish at their own pace, batch_size at most as they come."""
    o = job.options
    if not hasattr(job.sampler, "stream") or not len(images):
        for part in images.split(o.batch_size) if len(images) else ():
            yield part, codes_of(job, part, trace), trace.summary()
        return
    held, counted = [], trace.summary()
    for at, codes in streamed(job, images, trace):
        if held and sum(len(numbers) for numbers, _ in held) + len(at) > o.batch_size:
            yield *map(torch.cat, zip(*held, strict=True)), counted
            held = []
        held.append((images[at], codes))
        counted = trace.summary()
    yield *map(torch.cat, zip(*held, strict=True)), counted


def streamed(job: Job, images: Any, trace: Any) -> Iterator[tuple[Any, Any]]:
    """The sampler's stream of images [B], batch_size at once; the trace times it, and not what is done with it."""
    o, device = job.options, images.device
    cond = job.labels[images.cpu()].to(device)
    stream = job.sampler.stream(job.law, cond, job.noise, images, trace, o.sampler, o.batch_size)
    while True:
        with trace.timed(device), products(o.precision, device):
            found = next(stream, None)
        if found is None:
            return
        yield found


def draw(job: Job, out: Path) -> dict:
    """Sample what is missing of a job's images into `out`; returns what sample.json says.

    Files are written behind the sampling. On a GPU pixels are decoded there too, on a stream of their own (not run on a
    GPU); on a CPU they are not: two OpenMP teams on the same cores wait for each other, 5 to 30 times as long.
    """
    o, device = job.options, pick_device(job.options.device)
    files = SampleFiles(out, job.request, job.labels.numpy(), job.size, job.models.generator.spec)
    if files.is_finished:
        return read_json(out / "sample.json")
    missing, counted = files.missing(), files.counted()
    trace = Trace.restore(counted) if counted else Trace()
    bar = tqdm(total=o.num_images, initial=o.num_images - len(missing), unit="image", dynamic_ncols=True)
    side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def store(images: Any, codes: Any, pixels: Any, counted: dict) -> None:
        if side is not None:
            with torch.cuda.stream(side):
                side.wait_event(pixels)  # until the codes are there
                codes.record_stream(side)
                pixels, codes, images = (x.cpu() for x in (images_of(job, codes), codes, images))
        files.write(*(x.numpy() for x in (images, pixels, codes)), counted)

    with bar, Behind(store) as later:
        for images, codes, counted in finished(job, torch.as_tensor(missing, device=device), trace):
            here = torch.cuda.current_stream(device).record_event() if side else images_of(job, codes)
            later(images, codes, here, counted)
            bar.update(len(images))
    report = about(job, trace)
    above = [(name, finish(to_float(pictures), o.pixels).cpu()) for name, pictures in job.above]
    files.finish(report, job.names, f"{title(job)}, guidance {o.guidance}", above)
    return report


def about(job: Job, trace: Trace) -> dict:
    """What sample.json says."""
    o, m, config = job.options, job.models, job.config
    report = {
        "options": to_dict(o),
        "law": job.claim,
        "checkpoint": {"path": str(m.folder), "sha256": config["sha256"], "step": config["step"]},
        "original": config.get("original"),
        "published": job.published or None,
        "draft": m.draft_identity,
        "tokenizer": config["tokenizer"],
        "spec": config["spec"],
        "classes": job.names,
        "trace": trace.summary(),
        "device": str(pick_device(o.device)),
        "versions": versions(),
        "git": git_commit(),
    }
    if o.compile:
        report["compiling_seconds"] = round(m.generator.transformer.compiling, 1)  # the trace's seconds hold them
    return report | ({"warning": MEANINGLESS} if job.is_random else {})


def title(job: Job) -> str:
    """The generator, for a picture's title."""
    if job.is_random:
        return f"{job.options.zoo}, RANDOM WEIGHTS"
    return job.options.zoo or f"{job.options.run} step {job.config['step']}"
