"""What was measured of reconstructions as named numbers, what is odd about them, and lines to print."""

from __future__ import annotations

from typing import Any

import numpy as np

from pointillist import CodeSpec
from pointillist.evaluation.reconstruction.names import PERTURBED, SEEN_BY, UNVERIFIED
from pointillist.evaluation.reconstruction.perturb import Grid
from pointillist.evaluation.report import CONVENTIONAL, spread

FEW = 10  # codes seen for each there is: fewer leave some unused by chance
NOTE = "Numbers compare only where the protocols are equal, the images before all: evaluate.py compare A B"


def of_images(values: np.ndarray) -> dict:
    """The mean over images of float [N], with its standard error; infinite values are left out and counted.

    {} where none is finite.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return {}
    entry = {"value": float(finite.mean())}
    if len(finite) > 1:
        width = float(finite.std(ddof=1) / np.sqrt(len(finite)))
        entry |= {"width": width, "how": f"standard error over {len(finite)} images"}
    return entry | ({"infinite": len(values) - len(finite)} if len(finite) < len(values) else {})


def over_grid(cells: dict[tuple[float, int], float]) -> dict:
    """The mean over a grid's cells, and each of them."""
    parts = {f"{alpha:g}x{delta}": value for (alpha, delta), value in cells.items()}
    return {"value": float(np.mean(list(cells.values()))), "parts": parts}


def named(name: str, grid: Grid, networks: dict[str, Any]) -> str:
    """The name a number may bear: with the grid where that is not the usual one, and "rfid", "pfid" or "lpips_alex"
    only where the network is the published one."""
    card = networks[SEEN_BY[name]].card if name in SEEN_BY else {"verified": True}
    shown = name if card["verified"] else UNVERIFIED[name]
    shown = grid.named(shown) if name in PERTURBED else shown
    return shown if card["verified"] else f"{shown}({card['name']}-{card['sha256'][:8]})"


# ------------------------------------------------------------------------------------------------------------ warnings


def warnings_of(
    scores: dict, rows: dict[str, np.ndarray], count: int, spec: CodeSpec, dim: int, is_trained_on: bool
) -> dict[str, str]:
    """Name -> one line.

    scores         by the names of SCORES
    rows           name -> float [count], what `of_images` was given
    dim            of the features of Frechet distances, 0 without any
    is_trained_on  whether the images are those of the training
    """
    found = {}
    if is_trained_on:
        found["trained_on"] = "the tokenizer learned from these images; split=heldout are others"
    if dim and count != CONVENTIONAL:
        found["image_count"] = f"{count} images; a published rFID is of {CONVENTIONAL:,}, and it falls as 1/N"
    if dim and count <= dim:
        found["few_images"] = (
            f"{count} images for {dim} features: the covariance has no full rank, the distance is high"
        )
    if lossless := int(np.isinf(rows["psnr"]).sum()) if "psnr" in rows else 0:
        found["lossless_images"] = f"{lossless} of {count} images came back exactly; the mean PSNR is of the others"
    seen = count * spec.length
    if "code_usage" in scores and seen < FEW * max(spec.vocab):
        found["few_codes"] = f"only {seen:,} were seen of {max(spec.vocab):,} codes: some are unused by chance"
    return found


# --------------------------------------------------------------------------------------------------------------- lines


def lines(result: dict) -> list[str]:
    """Head, a score a line, tables of their parts, warnings, note."""
    out = [f"{result['protocol']['count']:,} images of {result['samples']['reference']}", ""]
    tables: dict[tuple, list[str]] = {}
    for name, entry in result["scores"].items():
        out.append(f"{name:<34}{entry['value']:>12.5g}{spread(entry)}")
        if "parts" in entry:
            tables.setdefault(tuple(entry["parts"]), []).append(name)
    for parts, names in tables.items():
        widths = [max(len(name), 8) + 2 for name in names]
        first = max(map(len, parts))
        out += ["", " " * first + "".join(f"{name:>{w}}" for name, w in zip(names, widths, strict=True))]
        for part in parts:
            values = (result["scores"][name]["parts"][part] for name in names)
            out.append(f"{part:<{first}}" + "".join(f"{v:>{w}.4g}" for v, w in zip(values, widths, strict=True)))
    return [*out, "", *(f"warning: {name}: {line}" for name, line in result["warnings"].items()), result["note"]]
