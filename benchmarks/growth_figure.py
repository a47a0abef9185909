"""The figure of benchmarks/growth.py: four panels, a line a size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import log
from pathlib import Path
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5578f", "#b98200", "#2b9bd4")  # the report's, sweeps/style.py
INK, QUIET, RULE = "#22262b", "#636b74", "#e2e4e1"


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """points: kind, size, length, batch, seconds, memory, long_from and full_from each, as growth.Point has them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(p["size"] for p in points))
    of = {size: {"color": COLOURS[i % len(COLOURS)], "label": size} for i, size in enumerate(names)}
    with plt.rc_context({"font.size": 9, "axes.edgecolor": RULE, "text.color": INK}):
        figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
        lines(a, _of(points, "length"), of, "length", lambda p: p["seconds"], bend="long_from")
        title(a, "An image, drawn alone: seconds", "codes of an image")
        lines(b, _of(points, "batch"), of, "batch", lambda p: p["seconds"] / p["batch"], bend="full_from")
        title(b, "An image of 256 codes: seconds", "images drawn together")
        lines(c, _of(points, "length"), of, "length", lambda p: p["memory"])
        lines(c, _of(points, "training"), of, "length", lambda p: p["memory"], style="--")
        title(c, "Peak memory, GB; dashed: a step of training", "codes of an image")
        lines(d, _of(points, "training"), of, "length", lambda p: p["seconds"], bend="long_from", style="--")
        title(d, "A step of training, always as many codes: seconds", "codes of an image")
        a.legend(frameon=False, labelcolor=INK)
        note = ("Rings, computed: keys and values outweigh the weights (left); products take longer than reading the "
                "weights (right);\nin training attention takes more operations than the matrices.")  # fmt: skip
        figure.text(0.5, -0.05, note, ha="center", color=QUIET)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, bbox_inches="tight", facecolor="#fdfdfb")
        plt.close(figure)


def _of(points: Iterable[dict], kind: str) -> list[dict]:
    return [p for p in points if p["kind"] == kind]


def lines(
    axes: Any, points: list[dict], of: dict, x: str, y: Callable[[dict], float], bend: str = "", style: str = "-"
) -> None:
    """A line of each size on two logarithmic axes, with a ring where it bends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for size, look in of.items():
        mine = sorted((p for p in points if p["size"] == size), key=lambda p: p[x])
        if not mine:
            continue
        across, up = [p[x] for p in mine], [y(p) for p in mine]
        axes.plot(across, up, style, marker="o", markersize=4, linewidth=1.6, **look)
        at = mine[0][bend] if bend else 0
        if across[0] <= at <= across[-1]:
            ring = {"markerfacecolor": "none", "markersize": 11, "markeredgewidth": 1.2}
            axes.plot([at], [between(at, across, up)], "o", color=look["color"], **ring)
    axes.set_xticks(sorted({p[x] for p in points}), [f"{v:,}" for v in sorted({p[x] for p in points})])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def between(at: float, across: list[float], up: list[float]) -> float:
    """The height of a line at x, on logarithmic axes."""
    i = max(i for i, x in enumerate(across) if x <= at)
    if i == len(across) - 1:
        return up[i]
    share = log(at / across[i]) / log(across[i + 1] / across[i])
    return up[i] ** (1 - share) * up[i + 1] ** share


def title(axes: Any, text: str, x: str) -> None:
    axes.set_title(text, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(x, color=QUIET)
    axes.tick_params(colors=QUIET, length=0)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
