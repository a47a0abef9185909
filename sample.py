"""Sample images from a trained generator, or from a published one.

    python sample.py runs/demo/generator num_images=1000 guidance=2
    python sample.py runs/demo/generator classes=Flags,0,3 num_images=64 seed=7 out=samples/flags
    python sample.py runs/emoji/randar unit.passes=20 order=spiral_out
    python sample.py runs/emoji/masked image=face.png mask=left num_images=16 classes=0
    python sample.py runs/emoji/token sampler=ancestral,jacobi,sjd guidance=1,2 num_images=1000
    python sample.py configs/imagenet/llamagen-l-384.yaml weights=FOLDER          # as published; docs/zoo.md
    python sample.py configs/imagenet/var-d30.yaml dry_run=true                   # what that would cost here
    python sample.py zoo=llamagen-l-384 weights=FOLDER classes=207,360 guidance=4 top_k=2000 num_images=8

Writes images.npz (arr_0 uint8 NHWC, arr_1 labels), codes.npz, grid.png and sample.json; png=true adds png/000000.png
... of the images, also where they are finished. Image i is the same image for any batch_size, order or restart; the
same command again continues a run that was stopped.

Several values with commas are a sweep: every combination is sampled and scored under points/, and sweep.csv, sweep.md
and report.html compare them. Names and paths (classes, image, ...) hold their commas.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointillist.configs.options import load, option, parse, run
from pointillist.configs.recipes import read_recipe
from pointillist.sweeps.grid import expand
from pointillist.training.request import Request, differing


@dataclass
class Options(Request):
    out: str = option(
        "", "where to write; default: samples/ in the run, sweep/ for a sweep; runs/zoo/NAME for zoo=NAME"
    )
    png: bool = option(False, "also write png/000000.png ..., a file for each image")
    dry_run: bool = option(False, "write no samples: sizes, memory, the time of a few images, and what was published")
    score: bool = option(True, "sweeps: score every point against the data of the training")
    cache: str = option("", "sweeps: folder of the score's feature networks; default: evaluation/ beside the run")
    network_steps: int = option(400, "sweeps: training steps of the feature network, as in evaluate.py")


# Whose commas belong to the value: names and paths. num_images is one number for all points of a sweep.
WHOLE = {"run", "out", "device", "tokenizer", "draft", "score", "cache", "network_steps", "weights", "published"}
WHOLE |= {"num_images", "classes", "image", "mask", "captions", "prompt", "text_encoder", "dry_run", "png"}


def main(argv: list[str]) -> None:
    command = parse(argv, __doc__, Options, recipe=lambda path: read_recipe(path).words())
    words = ([f"run={command.target}"] if command.target else []) + command.words

    grid = expand(Options, words, WHOLE)
    options = None if grid.axes else load(Options, None, words)

    from pointillist.training.jobs import MEANINGLESS, draw, prepare, prepare_one, rehearse
    from pointillist.training.models import RANDOM

    def draw_all(job: Any, out: Path) -> dict:
        report = draw(job, out)
        if job.options.png:
            from pointillist.training.pngs import write_pngs

            write_pngs(out)
        return report

    if grid.axes:
        from pointillist.sweeps.sweep import sweep

        points = [(point.name, load(Options, None, point.words)) for point in grid.points]
        if points[0][1].dry_run:
            raise ValueError(f"dry_run=true looks at one point, this is a grid of {len(points)}; leave the commas out")
        if any(options.weights == RANDOM for _, options in points):
            print(f"WARNING: {MEANINGLESS}")
        sweep(grid.axes, points, prepare, rehearse, draw_all)
        return
    if options.dry_run:
        from pointillist.training.dry_run import dry_run

        dry_run(options)
        return
    job = prepare_one(options)
    if changed := differing(options):
        print(f"other than {options.published}'s recipe: {', '.join(changed)}; its scores will not stand beside")
    if job.is_random:
        print(f"WARNING: {MEANINGLESS}")
    out = Path(options.out or job.folder.parent / "samples")
    was_finished = (out / "sample.json").is_file()
    report = draw_all(job, out)
    if was_finished:
        print(f"{out} is finished: {options.num_images} images; look at {out / 'grid.png'}")
        return
    print(f"{options.num_images} images in {out}: images.npz, codes.npz, sample.json; look at {out / 'grid.png'}")
    cost, compiling = report["trace"], report.get("compiling_seconds", 0)
    print(
        f"NFE an image {cost['nfe_per_image']:g}, sampling time {cost['seconds_per_image']:.4f} s an image"
        + (f"; {compiling:.0f} s of it all were compiling" if compiling else "")
    )


if __name__ == "__main__":
    run(main)
