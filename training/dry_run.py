"""What a sampling request will cost, measured on a few images of its own sampler, which are thrown away.

Nothing is written, but for the conversion of published weights that were named; without any, they are random.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from pointillist.configs.options import pick_device
from pointillist.evaluation.published import SCORES, read_published
from pointillist.models.linear import sizes_of
from pointillist.sampling.laws import Law
from pointillist.sampling.trace import Trace
from pointillist.training.jobs import Job, codes_of, images_of, prepare_one
from pointillist.training.models import RANDOM
from pointillist.training.precision import products
from pointillist.training.request import Request, differing
from pointillist.zoo.commands import commands_of

FEW = 4  # images a measured batch on a CPU; on a GPU it is the batch asked for, whose time is not that of a few
PATIENCE = 60.0  # seconds of passes after which the rest of an image is reckoned


def dry_run(o: Request) -> None:
    """Print plan, sizes, measured time, what was published, and the commands. Raises ValueError, OSError."""
    given = bool(o.weights) or not o.zoo
    options = replace(o, weights=o.weights if given else RANDOM)
    job = prepare_one(options)
    print("\n".join([*plan(job, given), *memory(job)]), flush=True)
    print("\n".join([*time_of(job), *published(o), *commands_of(o)]))


# ----------------------------------------------------------------------------------------------------------- its sizes


def plan(job: Job, given: bool = True) -> list[str]:
    """What is drawn, in which groups."""
    o, config, generator = job.options, job.config, job.models.generator
    name = o.zoo or f"{o.run} step {config['step']}"
    groups = [group.shape[1] for group in groups_of(job)]
    spec, sampler = generator.spec, o.sampler.name
    grids = " ".join("x".join(map(str, grid)) for grid in spec.grids)
    kind = " x ".join(f"{v:,}" for v in spec.vocab) + " values" if spec.vocab else f"{spec.channels} channels"
    sizes = ", ".join(f"{n} of {size}" for size, n in sorted(Counter(groups).items()))
    passes = f"{len(groups)}" if sampler == "ancestral" and o.sampler.merge == 1 and spec.vocab else "see below"
    shown = f"{config['image_size']} pixels" + (f", written at {job.size}" if job.size != config["image_size"] else "")
    numbers = ("guidance", "temperature", "top_k", "top_p", "min_p")
    return [
        f"{name}: unit={generator.unit.name}, {shown}" + ("" if given else "; no weights given: random ones"),
        f"codes      {spec.length:,} on grids {grids}, {kind}",
        f"groups     {len(groups)}: {sizes}",
        f"sampler    {sampler}, law {job.claim}; " + ", ".join(f"{n} {getattr(o, n)}" for n in numbers),
        f"expected   {passes} passes an image" + (", each of two rows (guided)" if job.law.streams == 2 else ""),
        f"labels     {o.classes}, {len(job.names):,} of them; seed {o.seed}; pixels "
        f"{o.pixels.quantize}, resize {o.pixels.resize}",
    ]


def groups_of(job: Job) -> list[Any]:
    """Slots [1, g] of the unit's own schedule for image 0."""
    image = torch.zeros(1, dtype=torch.long, device=pick_device(job.options.device))
    with torch.inference_mode():
        state = job.law.start(job.labels[:1].to(image.device), image, job.noise)
        return job.law.groups(state)


def memory(job: Job) -> list[str]:
    """Bytes of weights, of the keys and values that are kept, and of the logits of the widest pass."""
    o, generator = job.options, job.models.generator
    rows = job.law.streams
    with products(o.precision, pick_device(o.device)):
        cache = sum(part.nbytes for layer in generator.new_caches(1) for part in vars(layer).values())
    widest = max(group.shape[1] for group in groups_of(job))
    logits = widest * sum(generator.spec.vocab) * 4 * rows
    lines = []
    for name, network in (("generator", generator), ("tokenizer", job.models.tokenizer), ("draft", job.models.draft)):
        if network is not None:
            held = sizes_of(network)
            size = sum(count * dtype.itemsize for dtype, count in held.items())
            kind = str(max(held, key=held.get)).removeprefix("torch.") if held else "nothing"
            lines.append(f"{name:<10} {sum(held.values()):,} parameters, {amount(size)}, most as {kind}")
    for name, size in (("cache", cache * rows), ("logits", logits)):
        lines.append(f"{name:<10} {amount(size)} an image, {amount(size * o.batch_size)} at batch_size={o.batch_size}")
    return lines


# ------------------------------------------------------------------------------------------------------------ its time


class Enough(Exception):
    """The passes measured so far are enough."""


@dataclass
class Counted(Law):
    """A law whose passes move a progress bar, and that stops the sampler when its time is over."""

    bar: Any
    until: float

    def query(self, *asked: Any, **how: Any) -> Any:
        if time.perf_counter() > self.until and self.bar.n:
            raise Enough
        dist = self.generator.query(*asked, **how)
        self.bar.update()
        return dist


def time_of(job: Job) -> list[str]:
    """Seconds of a batch, measured, and of all images, reckoned from it."""
    o, device = job.options, pick_device(job.options.device)
    batch = min(o.num_images, o.batch_size if device.type == "cuda" else min(o.batch_size, FEW))
    images, groups = torch.arange(batch, device=device), len(groups_of(job))
    trace, begin = Trace(), time.perf_counter()
    with tqdm(total=groups, unit="pass", dynamic_ncols=True, leave=False) as bar:
        counted = replace(job, law=Counted(job.law, bar, begin + PATIENCE))
        try:
            codes = codes_of(counted, images, trace)
            drawing, how = trace.seconds, f"{trace.summary()['nfe_per_image']:g} passes an image"
        except Enough:
            drawing = (time.perf_counter() - begin) * groups / bar.n
            how = f"{bar.n} of {groups} passes, the others reckoned"
            codes = job.models.generator.blank(job.labels[:batch].to(device))[:, :-1]
    codes = codes if job.models.generator.spec.vocab else codes.float()
    begin = time.perf_counter()
    images_of(job, codes).cpu()
    decoding = time.perf_counter() - begin
    each = (drawing + decoding) / batch
    total = each * o.num_images
    return [
        f"measured   {batch} images on {device}: {drawing:.2f} s for codes ({how}), {decoding:.2f} s for pixels",
        f"estimate   {o.num_images:,} images at {each:.3g} s: {duration(total)}"
        + (f"; a batch of {o.batch_size} may be faster than one of {batch}" if batch < o.batch_size else ""),
    ]


# --------------------------------------------------------------------------------------------------- what was published


def published(o: Request) -> list[str]:
    """The scores of the row that is repeated."""
    row = read_published().get(o.published)
    if row is None:
        return []
    scores = ", ".join(f"{s} {row.scores[s]:g} ({row.certainty[s]})" for s in SCORES if s in row.scores)
    lines = [f"published  {row.title}: {scores}", f"           {row.source}"]
    if changed := differing(o):
        lines.append(f"           not with these {', '.join(changed)}")
    return lines


def amount(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:,.3g} h" if seconds < 48 * 3600 else f"{math.ceil(seconds / 86400):,} days"
