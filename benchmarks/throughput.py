"""Images a second of many: batches that are refilled as images finish, and files that are written behind the sampling.

    python benchmarks/throughput.py [num_images=48] [batch=8,16] [size=micro] [side=8] [guidance=1.5] [rounds=3]

A generator of random weights draws by sampler=jacobi, whose images need different numbers of passes: batch after batch,
each shrinking until its slowest image is done, or as one stream of as many rows. Then whole requests, codes to files:
without writing, writing in between, and as sample.py does, behind the sampling. All contenders take turns in one
process; the median of several rounds counts. Run it alone: one competing process slows torch 5 to 30 times.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import gemm, interleaved, limits, medians, table

from pointillist.configs.options import load, option, parse, run
from pointillist.models.generator import Generator
from pointillist.models.linear import sizes_of
from pointillist.models.options import Options as ModelOptions
from pointillist.models.units import token
from pointillist.sampling import jacobi
from pointillist.sampling.laws import Aided, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.tokenizers import conv
from pointillist.training.jobs import Job, draw, finished, images_of
from pointillist.training.models import Models
from pointillist.training.request import Request
from pointillist.training.samples import SampleFiles

CLASSES = 10


@dataclass
class Benchmark:
    num_images: int = option(48, "images a turn")
    batch: str = option("8,16", "rows side by side")
    size: str = option("micro", "of the generator, as model.size")
    side: int = option(8, "codes along a side of an image; a code is 8 x 8 pixels")
    window: int = option(16, "groups that are guessed in a pass")
    guidance: float = option(1.5, "1 = off")
    top_k: int = option(100, "0 = off")
    rounds: int = option(3, "turns of each contender; the median counts")


def request(o: Benchmark, batch: int) -> Job:
    """What sample.py would make of these options for a generator and a tokenizer of random weights."""
    torch.manual_seed(0)
    codec = conv.Tokenizer(conv.Options(widths=[32, 64, 64], blocks=1), 8 * o.side).eval().requires_grad_(False)
    unit = token.Options()
    network = Generator(ModelOptions(size=o.size), codec.spec, token.plan(codec.spec, unit), CLASSES, unit).eval()
    torch.nn.init.normal_(network.head.weight, std=0.03)  # zero when untrained; a law is wanted
    network.requires_grad_(False)
    config = {"image_size": 8 * o.side, "sha256": "random", "step": 0, "tokenizer": {}, "spec": {}}
    how = Request(
        run="random", num_images=o.num_images, batch_size=batch, sampler=jacobi.Options(window=o.window), device="cpu"
    )
    law = Aided(target(network, o.guidance, top_k=o.top_k))
    labels, names = torch.arange(o.num_images) % CLASSES, [str(i) for i in range(CLASSES)]
    models = Models(network, config, Path("random"), codec)
    return Job(how, models, jacobi, law, Noise(0), labels, names, {"benchmark": "throughput"}, [])


# ---------------------------------------------------------------------------------------------------------- contenders


def in_batches(job: Job, trace: Trace) -> None:
    """Each batch to its end, shrinking."""
    for images in torch.arange(len(job.labels)).split(job.options.batch_size):
        jacobi.sample(job.law, job.labels[images], job.noise, images, trace, job.options.sampler)


def refilled(job: Job, trace: Trace) -> None:
    images, rows = torch.arange(len(job.labels)), job.options.batch_size
    for _ in jacobi.stream(job.law, job.labels, job.noise, images, trace, job.options.sampler, rows):
        pass


def unwritten(job: Job) -> None:
    for _, codes, _ in finished(job, torch.arange(len(job.labels)), Trace()):
        images_of(job, codes)


def written_between(job: Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = SampleFiles(Path(folder), job.request, job.labels.numpy(), job.size, job.models.generator.spec)
        for images, codes, counted in finished(job, torch.arange(len(job.labels)), Trace()):
            files.write(images.numpy(), images_of(job, codes).numpy(), codes.numpy(), counted)
        files.finish({}, job.names, "", [])


def written_behind(job: Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw(job, Path(folder))


# ----------------------------------------------------------------------------------------------------------------- run


def sampling(job: Job, rounds: int, peak: float) -> str:
    calls = {"batch after batch": in_batches, "refilled": refilled}
    traces: dict[str, Trace] = {}

    def once(name: str, call: Callable[[Job, Trace], None]) -> None:
        traces[name] = Trace()
        call(job, traces[name])

    seconds = medians(interleaved({n: lambda n=n, c=c: once(n, c) for n, c in calls.items()}, rounds))
    weights, count, rows = sum(sizes_of(job.models.generator).values()), len(job.labels), []
    for name, s in seconds.items():
        trace, reached = traces[name], 2 * weights * traces[name].tokens_fed / s / 1e9
        filled = sum(n * times for n, times in trace.nfe.items()) / trace.passes / job.options.batch_size
        cells = [f"{count / s:.2f}", f"{seconds['batch after batch'] / s:.2f}", str(trace.passes), f"{filled:.0%}"]
        rows.append([name, *cells, f"{reached:.0f}", f"{reached / peak:.0%}"])
    return table(["jacobi", "images/s", "x batches", "passes", "rows at work", "GFLOP/s", "of the limit"], rows)


def writing(job: Job, rounds: int) -> str:
    calls: dict[str, Callable[[Job], Any]] = {
        "not written": unwritten, "written in between": written_between, "written behind": written_behind
    }  # fmt: skip
    seconds = medians(interleaved({name: lambda c=call: c(job) for name, call in calls.items()}, rounds))
    first = seconds["not written"]
    rows = [[name, f"{len(job.labels) / s:.2f}", f"{first / s:.2f}"] for name, s in seconds.items()]
    return table(["codes, pixels, files", "images/s", "x not written"], rows)


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    peak = gemm(torch.float32)
    print(limits())
    for batch in map(int, o.batch.split(",")):
        job = request(o, batch)
        print(f"\n{o.num_images} images, {batch} rows, {math.prod(job.models.tokenizer.spec.grids[0])} codes\n")
        print(sampling(job, o.rounds, peak), flush=True)
        print()
        print(writing(job, o.rounds), flush=True)


if __name__ == "__main__":
    run(main)
