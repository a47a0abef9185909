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

from dataclasses import dataclass
from pathlib import Path

from pointillist.configs.options import load, option, parse, run
from pointillist.training.request import Request


@dataclass
class Options(Request):
    out: str = option("", "where to write; default: samples/ in the run, sweep/ for a sweep")
    score: bool = option(True, "sweeps: score every point against the data of the training")
    cache: str = option("", "sweeps: folder of the score's feature networks; default: evaluation/ beside the run")
    network_steps: int = option(400, "sweeps: training steps of the feature network, as in evaluate.py")


# Whose commas belong to the value: names and paths. num_images is one number for all points of a sweep.
WHOLE = {"run", "out", "device", "tokenizer", "draft", "score", "cache", "network_steps"}
WHOLE |= {"num_images", "classes", "image", "mask"}


def main(argv: list[str]) -> None:
    command = parse(argv, __doc__, Options)
    words = ([f"run={command.target}"] if command.target else []) + command.words

    from pointillist.sweeps.grid import expand
    from pointillist.sweeps.sweep import sweep
    from pointillist.training.jobs import draw, prepare, prepare_one, rehearse

    if (grid := expand(Options, words, WHOLE)).axes:
        points = [(point.name, load(Options, None, point.words)) for point in grid.points]
        sweep(grid.axes, points, prepare, rehearse, draw)
        return
    job = prepare_one(load(Options, None, words))
    out = Path(job.options.out or job.folder.parent / "samples")
    was_finished = (out / "sample.json").is_file()
    cost = draw(job, out)["trace"]
    if was_finished:
        print(f"{out} is finished: {job.options.num_images} images; look at {out / 'grid.png'}")
        return
    print(f"{job.options.num_images} images in {out}: images.npz, codes.npz, sample.json; look at {out / 'grid.png'}")
    print(f"NFE an image {cost['nfe_per_image']:g}, sampling time {cost['seconds_per_image']:.4f} s an image")


if __name__ == "__main__":
    run(main)
