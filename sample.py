"""Sample images from a trained generator.

    python sample.py runs/demo/generator num_images=1000 guidance=2
    python sample.py runs/demo/generator classes=Flags,0,3 num_images=64 seed=7 out=samples/flags
    python sample.py runs/emoji/randar unit.passes=20 order=spiral_out
    python sample.py runs/emoji/masked image=face.png mask=left num_images=16 classes=0
    python sample.py runs/emoji/token sampler=ancestral,jacobi,sjd guidance=1,2 num_images=1000

Writes images.npz (arr_0 uint8 NHWC, arr_1 labels), codes.npz, grid.png and sample.json. Image i is the same image for
any batch_size, order or restart; the same command again continues a run that was stopped.

Several values with commas are a sweep: every combination is sampled and scored under points/, and sweep.csv, sweep.md
and report.html compare them. Names and paths (classes, image, ...) hold their commas.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pointillist.configs.files import read_json
from pointillist.configs.options import find, load, option, parse, pick_device, run, to_dict


@dataclass
class Options:
    run: str = option("", "the generator's run folder or one of its checkpoints")
    out: str = option("", "where to write; default: samples/ in the run, sweep/ for a sweep")
    num_images: int = option(100, "images")
    classes: str = option(
        "balanced", "balanced | random | proportional (as in training) | names or numbers, e.g. 207,360"
    )
    seed: int = option(0, "names the noise: same seed, same images")
    batch_size: int = option(64, "images decoded together; does not change them")
    sampler: Any = option("ancestral", "how codes are drawn", part="sampling")
    guidance: str = option("1", "unconditional + guidance * (conditional - unconditional); 1 = off; or 1..4:linear")
    guidance_interval: list[float] = option([0, 1], "share of the codes from which and up to which guidance acts")
    temperature: str = option("1", "0 = greedy; this and the next three may change along the codes too: 1.2..0.8")
    top_k: str = option("0", "0 = off")
    top_p: str = option("1", "1 = off")
    min_p: str = option("0", "least probability as a share of the greatest; 0 = off")
    draft: str = option("", "a run whose generator drafts for sampler.drafter=model; same tokenizer")
    unit: dict[str, Any] = option({}, "options of the unit that may change after training: unit.passes=20")
    model: dict[str, Any] = option({}, "options of the model that may: model.flow_steps=50")
    order: str = option("", "for units of any order: a scan order, or an .npy of slots [N] or [num_images, N]")
    image: str = option("", "inpainting: the image whose codes are kept where the mask lets them")
    mask: str = option("", "what to paint: left | right | top | bottom | centre, or an image file, white = paint")
    tokenizer: str = option("", "the tokenizer's run, if it is not where it was")
    device: str = option("auto", "auto = cuda if there is one, else cpu")
    precision: Literal["fp32", "bf16", "fp64"] = option("fp32", "of the generator's weights and cache")
    score: bool = option(True, "sweeps: score every point against the data of the training")
    cache: str = option("", "sweeps: folder of the score's feature networks; default: evaluation/ beside the run")
    network_steps: int = option(400, "sweeps: training steps of the feature network, as in evaluate.py")


# What a stopped run may change when it continues.
FREE = {"run", "out", "batch_size", "device", "tokenizer", "draft", "score", "cache", "network_steps"}
# Whose commas belong to the value: names and paths. num_images is one number for all points of a sweep.
WHOLE = FREE - {"batch_size"} | {"num_images", "classes", "image", "mask"}


def main(argv: list[str]) -> None:
    command = parse(argv, __doc__, Options)
    words = ([f"run={command.target}"] if command.target else []) + command.words

    from pointillist.sweeps.grid import expand
    from pointillist.sweeps.sweep import sweep

    if (grid := expand(Options, words, WHOLE)).axes:
        points = [(point.name, load(Options, None, point.words)) for point in grid.points]
        sweep(grid.axes, points, prepare, rehearse, draw)
        return
    job = prepare(load(Options, None, words))
    if job.options.draft and not job.models.draft:
        raise ValueError(
            f"sampler={job.options.sampler.name} drafts by itself; leave draft= or add sampler.drafter=model"
        )
    out = Path(job.options.out or job.folder.parent / "samples")
    was_finished = (out / "sample.json").is_file()
    cost = draw(job, out)["trace"]
    if was_finished:
        print(f"{out} is finished: {job.options.num_images} images; look at {out / 'grid.png'}")
        return
    print(f"{job.options.num_images} images in {out}: images.npz, codes.npz, sample.json; look at {out / 'grid.png'}")
    print(f"NFE an image {cost['nfe_per_image']:g}, sampling time {cost['seconds_per_image']:.4f} s an image")


# -------------------------------------------------------------------------------------------------------------- models


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
    import torch

    from pointillist.training import checkpoint
    from pointillist.training.load import load_generator, load_tokenizer, tokenizer_of

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


# ------------------------------------------------------------------------------------------------------------- request


@dataclass(frozen=True)
class Job:
    """A request that has been checked: the law to sample, how, and what its files must say to be continued."""

    options: Options
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


def prepare(o: Options) -> Job:
    """Check everything that can be checked before the first image; writes nothing. Raises ValueError, OSError."""
    if not o.run:
        raise ValueError("which run? give the folder that train.py wrote: python sample.py RUN key=value ...")
    if o.num_images < 1 or o.batch_size < 1:
        raise ValueError(f"num_images and batch_size must be at least 1, got {o.num_images}, {o.batch_size}")

    from pointillist.sampling.labels import labels_of
    from pointillist.sampling.laws import Aided, Inpaint, Ordered, target
    from pointillist.sampling.noise import Noise
    from pointillist.training.given import given_order, kept_codes
    from pointillist.training.load import check_sampler

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
    request = {k: v for k, v in to_dict(o).items() if k not in FREE} | given
    request |= {"checkpoint": config["sha256"], "step": config["step"]}
    request |= {"draft_sha256": m.draft_identity["sha256"]} if m.draft else {}
    return Job(o, m, find("sampling", o.sampler.name), law, noise, labels, request, above)


# -------------------------------------------------------------------------------------------------------------- sample


def rehearse(job: Job) -> None:
    """One image, thrown away: what only shows in sampling is said before a sweep begins. Raises ValueError."""
    import torch

    from pointillist.sampling.trace import Trace

    codes_of(job, torch.zeros(1, dtype=torch.int64, device=pick_device(job.options.device)), Trace())


def codes_of(job: Job, images: Any, trace: Any) -> Any:
    """Codes [B, N, ...] of image numbers [B]; the trace counts what they cost."""
    with trace.timed(images.device):
        cond = job.labels[images.cpu()].to(images.device)
        codes = job.sampler.sample(job.law, cond, job.noise, images, trace, job.options.sampler)
    return codes if job.models.generator.spec.vocab else codes.float()


def draw(job: Job, out: Path) -> dict:
    """Sample what is missing of a job's images into `out`; returns what sample.json says."""
    import torch
    from tqdm import tqdm

    from pointillist.data.images import to_uint8
    from pointillist.sampling.trace import Trace
    from pointillist.training.load import versions
    from pointillist.training.samples import SampleFiles, git_commit

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
        decoded = to_uint8(m.tokenizer.decode(codes)).cpu().numpy()
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


if __name__ == "__main__":
    run(main)
