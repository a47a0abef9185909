"""Score a tokenizer by what it makes of images: rFID, PSNR, SSIM, LPIPS, how it uses its codes, and pFID.

    python evaluate.py tokenizer RUN                                  # held-out images of the data it was trained on
    python evaluate.py tokenizer RUN scores=psnr,ssim,codes           # these need no weights file
    python evaluate.py tokenizer RUN images=/data/imagenet/val        # centre-cropped as ADM does, or by pixels.*
    python evaluate.py tokenizer RUN data=emoji split=train
    python evaluate.py tokenizer RUN scores=pfid pfid_alphas=[0.9] pfid_deltas=[200]      # one of its 15 passes

rfid            Frechet distance (Inception) between the images and their reconstructions; never to ADM's statistics
psnr ssim lpips means over images, with their standard error; lpips is lpips_alex and lpips_vgg
codes           usage, entropy and perplexity, of each book and scale
pfid            mean Frechet distance over a grid of ways to replace codes by near ones (RobustTok, arXiv 2503.08354)
perturbed_psnr  mean PSNR over that grid; needs no network

Writes scores.json and scores.png into the run. The same command again continues one that was stopped.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pointillist.configs.files import read_json, write_json
from pointillist.configs.options import option, pick_device
from pointillist.data.pixels import Pixels

SUITE = "pointillist-tokenizer 1"
DISCRETE = ("codes", "pfid", "perturbed_psnr")  # scores that need codes to count or to replace
LPIPS = ("lpips_alex", "lpips_vgg")  # "lpips" for short
SCORES = ("rfid", "psnr", "ssim", *LPIPS, *DISCRETE)
CHOICES = f"{', '.join(SCORES)}, and lpips for both of its kinds"
SHOWN = 12  # images of the picture


@dataclass
class Options:
    run: str = option("", "a tokenizer's run or one of its checkpoints")
    scores: str = option("rfid,psnr,ssim", f"which: {CHOICES}")
    data: Any = option("", "a data set instead of the training's; data.root=FOLDER where that has moved", part="data")
    split: Literal["heldout", "train"] = option("heldout", "of the data set")
    images: str = option("", "images instead of a data set: a folder, .npz, .npy, .zip or .tar")
    pixels: Pixels = option(Pixels(resize="adm"), "how images= are cropped; pixels.quantize is for reconstructions too")
    batch_size: int = option(64, "images that go through the networks together")
    pfid_alphas: list[float] = option([0.9, 0.8, 0.7, 0.6, 0.5], "pfid: shares of the codes that are replaced")
    pfid_deltas: list[int] = option([200, 280, 360], "pfid: nearest codes that may stand in, for a book of 4096")
    save_every: float = option(30, "seconds of work that a kill may cost")
    inception_weights: str = option("", "file of the FID network, if it is not in the usual places")
    lpips_alex_weights: str = option("", "file of LPIPS' AlexNet")
    lpips_vgg_weights: str = option("", "file of LPIPS' VGG16")
    unverified: bool = option(False, "take weights that are not the published ones; scores then bear other names")
    cache: str = option("runs/evaluation", "folder of the images' own measured statistics")
    device: str = option("auto", "auto = cuda if there is one, else cpu")
    out: str = option("", "score file; empty = scores.json in the run")

    def weights_of(self, network: str) -> str:
        """The file that was named for a network, "" for none."""
        lpips = {"lpips_alex": self.lpips_alex_weights, "lpips_vgg": self.lpips_vgg_weights}
        return {"inception": self.inception_weights, **lpips}[network]


def main(targets: list[str], o: Options) -> None:
    from pointillist.evaluation import card
    from pointillist.evaluation.reconstruction.perturb import Grid
    from pointillist.evaluation.reconstruction.subject import open_images, open_subject
    from pointillist.training.processes import processes

    if len(targets) > 1:
        raise ValueError(f"one tokenizer at a time, got {' '.join(targets)}")
    o.run = o.run or (targets[0] if targets else "")
    if not o.run:
        raise ValueError("which tokenizer? python evaluate.py tokenizer RUN [option=value ...]; --help explains")
    grid = Grid(tuple(o.pfid_alphas), tuple(o.pfid_deltas))
    grid.check()
    card.check_out(o.out)
    if o.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {o.batch_size}")
    if o.images and o.data:
        raise ValueError("images= and data= are two ways to say the same; give one of them")
    with processes() as group:
        subject = open_subject(o.run, pick_device(o.device))
        names = chosen(o.scores, subject)
        images, source = open_images(subject, o.images, o.data, o.split, o.pixels)
        if images.count < 2:
            raise ValueError(f"{source} holds {images.count} image; scores are means over 2 or more")
        score(names, subject, images, source, grid, o, group)


def chosen(scores: str, subject: Any) -> list[str]:
    """Names in the order of SCORES. Raises ValueError with those that there are, or that fit continuous codes."""
    names = [name.strip() for name in scores.split(",") if name.strip()]
    names = [one for name in names for one in (LPIPS if name == "lpips" else (name,))]
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ValueError(f"scores={scores}: there is no {unknown[0] if unknown else 'score'}; choose from {CHOICES}")
    wrong = [name for name in names if name in DISCRETE]
    if wrong and not subject.is_discrete:
        raise ValueError(
            f"scores={scores}: {', '.join(wrong)} cannot be had of continuous codes, which {subject.folder} has; take "
            f"scores={','.join(name for name in SCORES if name not in DISCRETE)}"
        )
    return [name for name in SCORES if name in names]


def score(names: list[str], subject: Any, images: Any, source: str, grid: Any, o: Options, group: Any) -> None:
    """Measure, compute, write."""
    from pointillist.evaluation import card
    from pointillist.evaluation.reconstruction import passes, summary

    out, spec = Path(o.out) if o.out else subject.folder.parent / "scores.json", subject.tokenizer.spec
    parts = card.parts_of(out)
    networks = passes.open_networks(names, o, subject.device)
    seen_by = {name: network.sha256 for name, network in networks.items()}
    how = [images.card, o.pixels.quantize, grid.card(spec.vocab), seen_by]
    request = card.request([names, subject.config["sha256"], images.identity, *how])
    if card.is_written(out, request):
        if group.is_first:
            print("\n".join([*summary.lines(read_json(out)), f"was written before: {out}"]))
        return
    measured = passes.Passes(subject, images, networks, parts, o, group)
    originals, decoded = measured.originals(source), measured.reconstructions(names)
    cells = measured.perturbed(names, grid, originals)
    if group.is_first:
        found = numbers(names, measured, originals, decoded, cells)
        dim = networks["inception"].layers["pool"] if "inception" in networks else 0
        is_trained_on = images.identity == subject.trained_on
        result = {
            "scores": {summary.named(name, grid, networks): entry for name, entry in found.items()},
            "warnings": summary.warnings_of(found, decoded.rows, images.count, spec, dim, is_trained_on),
            "note": summary.NOTE,
            "protocol": {"suite": SUITE, **measured.protocol(names, grid)},
            "samples": {
                "source": o.run,
                "sha256_of_pixels": [decoded.census.content],
                "seeds": None,
                "run": subject.card(),
                "reference": source,
                "images": images.card,
                "published": None,
                "request": request,
            },
            "environment": measured.environment(),
        }
        write_json(out, result)
        measured.picture(out.with_suffix(".png"), SHOWN, source)
        shutil.rmtree(parts, ignore_errors=True)
        print("\n".join([*summary.lines(result), f"written: {out}; look at {out.with_suffix('.png')}"]))
    group.wait()


def numbers(names: list[str], measured: Any, originals: Any, decoded: Any, cells: dict) -> dict[str, dict]:
    """Name -> {"value", ...}, in the order of SCORES."""
    from pointillist.evaluation.reconstruction import passes, summary
    from pointillist.evaluation.reconstruction.codes import statistics

    found = {"rfid": {"value": passes.distance(originals, decoded)}} if "rfid" in names else {}
    found |= {name: entry for name, rows in decoded.rows.items() if (entry := summary.of_images(rows))}
    found |= statistics(measured.counts(), measured.subject.tokenizer.spec) if "codes" in names else {}
    return found | {name: summary.over_grid(values) for name, values in cells.items()}
