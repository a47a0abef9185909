"""The same image numbers under every point of a sweep, for the report: a person sees which images are equal."""

from __future__ import annotations

import base64
import io
from functools import cache
from html import escape
from pathlib import Path

from PIL import Image
from torch import Tensor

from pointillist.evaluation.samples import open_samples
from pointillist.sweeps.results import Result

COLUMNS = 12
LARGEST = 128  # pixels of a picture in the page


def strips(results: list[Result]) -> str:
    """A block for every set of numbers: a row a sampler, the images that are not ancestral's marked."""
    blocks: dict[tuple, list[Result]] = {}
    for result in results:
        blocks.setdefault(tuple(result.numbers.items()), []).append(result)
    return "\n".join(_block(numbers, members) for numbers, members in blocks.items())


def _block(numbers: tuple, members: list[Result]) -> str:
    labels, classes = first_images(members[0].folder)[1], members[0].sample["classes"]
    chosen = spread_out(labels)
    names = [classes[labels[i]] for i in chosen]
    heads = "".join(
        f'<td><div title="image {i}, {escape(name)}">{escape(name)}</div></td>'
        for i, name in zip(chosen, names, strict=True)
    )
    rows = "\n".join(_row(member, chosen, names) for member in members)
    title = ", ".join(f"{key} {value}" for key, value in numbers)
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    table = f'<table class="seeds"><thead><tr><th></th>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>'
    return f'{heading}<div class="scroll">{table}</div>'


def _row(result: Result, chosen: list[int], names: list[str]) -> str:
    images, _ = first_images(result.folder)
    cells = []
    for i, name in zip(chosen, names, strict=True):
        differs = result.same is not None and not result.same[i]
        said = f"image {i}, {name}{', differs from ancestral' if differs else ''}"
        kind = ' class="pixels"' if images.shape[-1] < LARGEST else ""
        picture = f'<img{kind} alt="{escape(said)}" title="{escape(said)}" src="{data_uri(images[i])}">'
        cells.append(f'<td class="{"differs" if differs else "equal"}">{picture}</td>')
    return f"<tr><th>{escape(result.sampler)}<br>{badge(result)}</th>{''.join(cells)}</tr>"


def badge(result: Result) -> str:
    """How many of all images are ancestral's."""
    if result.same is None:
        return '<span class="badge">no ancestral point</span>'
    if result.is_ancestral:
        return '<span class="badge">the reference</span>'
    differing, count = int((~result.same).sum()), len(result.same)
    if not differing:
        return f'<span class="badge equal">= all {count} equal</span>'
    return f'<span class="badge other">≠ {differing} of {count} differ</span>'


def spread_out(labels: list[int]) -> list[int]:
    """Image numbers, ascending: the first of every class, then more of them, COLUMNS at most."""
    first = [labels.index(label) for label in dict.fromkeys(labels)]
    rest = [i for i in range(len(labels)) if i not in first]
    return sorted([*first, *rest][:COLUMNS])


@cache
def first_images(folder: Path) -> tuple[Tensor, list[int]]:
    """(uint8 [n, 3, S, S], labels) of the first images of a finished point; the rest is not read."""
    samples = open_samples(folder / "images.npz")
    images = next(samples.batches())
    return images, samples.labels[: len(images)].tolist()


def data_uri(image: Tensor) -> str:
    """A uint8 [3, S, S] as a PNG inside the page, LARGEST pixels at most."""
    picture, png = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), io.BytesIO()
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(png, format="PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
