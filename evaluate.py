"""Score images offline: a Frechet distance in features trained on the reference, class agreement, memorisation.

    python evaluate.py IMAGES reference=emoji [option=value ...]

    python evaluate.py runs/emoji/samples
    python evaluate.py samples.npz reference=folder reference.root=/data/flowers
    python evaluate.py --help | key=?

IMAGES is an .npz (arr_0: uint8 [N, H, W, 3], arr_1: labels, if any), an .npy, a folder of image files, or a folder
that holds such an images.npz. The reference's pictures are brought to the samples' size. The
first run trains a small feature network on the reference's training images and keeps it under `cache`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pointillist.configs.files import write_json
from pointillist.configs.options import load, option, parse, run, to_dict


@dataclass
class Options:
    reference: Any = option("emoji", "images to compare with: train split and held-out split", part="data")
    cache: str = option("runs/evaluation", "folder of the feature networks")
    network_steps: int = option(400, "training steps of the feature network; another number is another network")
    out: str = option("", "score file; empty = scores.json beside the images")


def main(argv: list[str]) -> None:
    command = parse(argv, __doc__, Options)
    options = load(Options, None, command.words)
    if command.target is None:
        raise ValueError("which images? python evaluate.py IMAGES [option=value ...]; --help explains")

    from pathlib import Path

    from pointillist.evaluation.offline.classifier import open_network
    from pointillist.evaluation.offline.reference import open_reference
    from pointillist.evaluation.offline.score import check, score
    from pointillist.evaluation.offline.text import lines
    from pointillist.evaluation.samples import open_samples

    # ------------------------------------------------------------------------------------ samples, reference, network
    samples = open_samples(command.target)
    reference = open_reference(options.reference, samples.size)
    check(samples, reference)  # before minutes of training
    trained = open_network(reference, options.cache, options.network_steps)

    # ---------------------------------------------------------------------------------------------------------- score
    result = score(samples, reference, trained)
    result["protocol"]["options"] = to_dict(options)
    out = Path(options.out) if options.out else samples.folder / "scores.json"
    write_json(out, result)
    print("\n".join([*lines(result), f"written: {out}"]))


if __name__ == "__main__":
    run(main)
