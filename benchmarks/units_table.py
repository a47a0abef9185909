"""The table and the figure of benchmarks/units.py, from the files that the project's commands leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import log
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from pointillist.configs.files import read_json, write_whole
from pointillist.data import emoji
from pointillist.data.crops import Views
from pointillist.data.images import Images
from pointillist.data.loader import all_images
from pointillist.training import checkpoint
from pointillist.training.log import read_log
from pointillist.training.pictures import save_grid

TIMINGS = {64: 64, 1: 4}  # batch size: images that are timed
EACH = 2  # images a class in the figure


@dataclass(frozen=True)
class Unit:
    """A generator's YAML, and where its results lie."""

    config: Path
    out: Path
    tokenizer: Path

    @property
    def name(self) -> str:
        return self.config.stem

    @property
    def run(self) -> Path:
        return self.out / self.name

    @property
    def plan(self) -> Path:
        return self.out / f"{self.name}.plan.json"

    @property
    def timing(self) -> Path:
        return self.out / f"{self.name}.timing.json"


def newest(unit: Unit) -> dict:
    """config.json of the run's last checkpoint."""
    return checkpoint.read_config(checkpoint.locate(unit.run))


def timings(unit: Unit) -> dict:
    """Seconds an image by batch size, if they are the last checkpoint's."""
    known = read_json(unit.timing) if unit.timing.is_file() else {}
    return known if known.get("checkpoint") == newest(unit)["sha256"] else {}


def is_measured(unit: Unit) -> bool:
    """Whether a row can be made."""
    files = (unit.plan, unit.timing, unit.run / "samples" / "sample.json", unit.run / "samples" / "scores.json")
    return all(f.is_file() for f in files) and {str(b) for b in TIMINGS} <= timings(unit).keys()


# ----------------------------------------------------------------------------------------------------------------- rows


def row_of(unit: Unit) -> dict[str, Any]:
    """A unit's numbers; heldout_nll is nats an image, None where the unit has no likelihood."""
    config, log_lines, times = newest(unit), read_log(unit.run / "log.jsonl"), timings(unit)
    scores = read_json(unit.run / "samples" / "scores.json")["scores"]
    score = next(k for k in scores if k.startswith("toy_frechet"))
    spec, nll = config["spec"], last(log_lines, "heldout_nll")
    slots = sum(int(np.prod(grid)) for grid in spec["grids"])
    return {
        "name": unit.name,
        "what": first_comment(unit.config),
        "tokenizer": unit.tokenizer.name,
        "psnr": last(read_log(unit.tokenizer / "log.jsonl"), "heldout_psnr"),
        "parameters": parameters(checkpoint.locate(unit.run) / "model.safetensors"),
        "slots": slots,
        "books": len(spec["vocab"]),  # 0: continuous
        "nfe": read_json(unit.run / "samples" / "sample.json")["trace"]["nfe_per_image"],
        "heldout_nll": None if nll is None else nll * slots,  # the log's is nats a code, all its books together
        "pixels": config["image_size"] ** 2,
        "score_name": score,
        **{key: scores[name]["value"] for key, name in names_of(score).items()},
        "heldout": {key: scores[name]["heldout"] for key, name in names_of(score).items()},
        "seconds_1": times["1"],
        "seconds_64": times["64"],
        "steps": config["step"],
        "seconds": last(log_lines, "seconds"),
    }


def names_of(score: str) -> dict[str, str]:
    return {"score": score, "agreement": "class_agreement", "copies": "copy_rate"}


def last(records: list[dict], key: str) -> float | None:
    return next((r[key] for r in reversed(records) if key in r), None)


def first_comment(config: Path) -> str:
    """The first sentence of the comment that a YAML begins with."""
    line = config.read_text(encoding="utf-8").partition("\n")[0]
    sentence = line.lstrip("# ").partition(". ")[0].rstrip(".") if line.startswith("#") else ""
    return shorten(sentence, 90, placeholder=" ...")


def parameters(weights: Path) -> int:
    """Numbers in a safetensors file, less those of a frozen submodule `lift`."""
    with safe_open(weights, framework="pt") as file:
        names = file.keys()
        trained = [k for k in names if "lift" not in k.split(".")[:-1]]
        return sum(int(np.prod(file.get_slice(k).get_shape())) for k in trained)


# ---------------------------------------------------------------------------------------------------------------- table

COLUMNS: dict[str, Callable[[dict], str]] = {
    "unit": lambda r: r["name"],
    "what comes next": lambda r: r["what"].replace("|", "/"),
    "tokenizer (held-out PSNR)": lambda r: f"{r['tokenizer']} ({shown(r['psnr'], '.2f')} dB)",
    "M parameters": lambda r: f"{r['parameters'] / 1e6:.2f}",
    "slots": lambda r: f"{r['slots']} x {r['books']}" if r["books"] > 1 else f"{r['slots']}",
    "NFE": lambda r: f"{r['nfe']:g}",
    "held-out nats an image": lambda r: shown(r["heldout_nll"], ".1f"),
    "bits a pixel": lambda r: shown(bits(r), ".4f"),
    "toy score": lambda r: f"{r['score']:.1f}",
    "class agreement": lambda r: f"{r['agreement']:.1%}",
    "copy rate": lambda r: f"{r['copies']:.1%}",
    "ms an image, batch 1": lambda r: f"{r['seconds_1'] * 1e3:.1f}",
    "ms an image, batch 64": lambda r: f"{r['seconds_64'] * 1e3:.1f}",
    "training steps": lambda r: f"{r['steps']:,}",
    "training s": lambda r: shown(r["seconds"], ".0f"),
}


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def bits(row: dict) -> float | None:
    return None if row["heldout_nll"] is None else row["heldout_nll"] / log(2) / row["pixels"]


def ordered(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda r: (r["tokenizer"], r["score"], r["name"]))


def table(rows: list[dict]) -> list[str]:
    """Markdown: a line a unit, the units of one tokenizer together, the best score first."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(cell(row) for cell in COLUMNS.values()) for row in ordered(rows)]
    return [f"| {line} |" for line in lines]


def caption(rows: list[dict], protocol: str) -> list[str]:
    """What has to be known to read the table. ValueError when the rows were scored by different feature networks."""
    names = sorted({r["score_name"] for r in rows})
    if len(names) > 1:
        raise ValueError(f"the units were scored by different networks ({', '.join(names)}); remove their scores.json")
    real = rows[0]["heldout"]
    return [
        f"Protocol: {protocol}; sampling times include the first call; one machine, all units in turn.",
        "",
        f"Toy score: `{names[0]}`, lower is better, not an FID and comparable with nothing but this table. Held-out "
        f"emoji themselves: score {real['score']:.1f}, class agreement {real['agreement']:.1%}, copy rate "
        f"{real['copies']:.1%}.",
        "",
        "Nats an image are of the codes, `-` where they are continuous and have no such likelihood. They and bits a "
        "pixel compare units of one tokenizer only: another tokenizer's codes leave out another part of the image. "
        "Those of any order (masked, randar) are means over random orders, for masked an upper bound.",
    ]


# --------------------------------------------------------------------------------------------------------------- report


def report(units: list[Unit], out: Path, protocol: str) -> None:
    """Write OUT/units.md and OUT/units.png of the units that are measured."""
    rows = ordered([row_of(unit) for unit in units])
    write_whole(out / "units.md", "\n".join([*table(rows), "", *caption(rows, protocol)]) + "\n")
    names = {unit.name: unit for unit in units}
    samples = [np.load(names[r["name"]].run / "samples" / "images.npz") for r in rows]
    images = [torch.from_numpy(s["arr_0"]).permute(0, 3, 1, 2) for s in samples]
    labels = samples[0]["arr_1"]
    for unit, its in zip(rows, samples, strict=True):
        assert (its["arr_1"] == labels).all(), f"{unit['name']}: image i is of another class than in other units"
    real, size = held_out(), images[0].shape[-1]
    chosen = spread_out(labels, real.labels)
    strips = [("held-out", pixels_of(size)[[j for _, j in chosen]])]
    strips += [(f"{r['name']} {r['score']:.1f}", x[[i for i, _ in chosen]]) for r, x in zip(rows, images, strict=True)]
    classes = ", ".join(dict.fromkeys(real.classes[labels[i]] for i, _ in chosen))
    save_grid(strips, out / "units.png", title=f"A column is one image number of one class; from the left: {classes}")


def spread_out(labels: np.ndarray, real: np.ndarray) -> list[tuple[int, int]]:
    """(image number, held-out number) pairs of equal class: the first few of each class that both have."""
    pairs = []
    for c in np.unique(labels):
        mine, theirs = np.flatnonzero(labels == c), np.flatnonzero(real == c)
        pairs += zip(mine[:EACH].tolist(), theirs[:EACH].tolist(), strict=False)
    return pairs


@lru_cache(maxsize=1)
def held_out() -> Images:
    return emoji.open_images(emoji.Options(), "heldout")


@lru_cache(maxsize=1)
def pixels_of(size: int) -> Tensor:
    """All held-out emoji, uint8 [n, 3, size, size]."""
    return all_images(held_out(), Views(size=size, flip=False))
