"""Charts as inline SVG for the report: plain text out of plain numbers. Colours are the page's CSS variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 460, 330  # in units of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44  # margins around the plot
LETTER = 6.1  # mean width of a letter of a label, 11 units high

# Drawn around (0, 0), with about equal areas; the second half of a legend needs more than colours.
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -6l5.6 10h-11.2z",
    "M0 -6.3l6.3 6.3l-6.3 6.3l-6.3 -6.3z",
    "M0 6l5.6 -10h-11.2z",
    "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "M0 -6l5.7 4.1l-2.2 6.7h-7l-2.2 -6.7z",
)
COLOURS = 7
FAINT = 0.06  # opacity of a map's lowest cells


@dataclass(frozen=True)
class Mark:
    """A point of a scatter plot: where, its label, the series that gives it colour and shape; hollow = not exact."""

    x: float
    y: float
    label: str
    series: int
    hollow: bool = False


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that enclose low..high."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-30):
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def scatter(marks: list[Mark], x_title: str, y_title: str, level: tuple[float, str] | None = None) -> str:
    """Marks over axes: x from 0, y around the marks and the dashed level (value, name), if any."""
    heights = [m.y for m in marks] + ([level[0]] if level else [])
    across, up = ticks(0, max(m.x for m in marks)), ticks(min(heights), max(heights))

    def at_x(value: float) -> float:
        return LEFT + (value - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)

    parts, right, taken = [_axes(across, up, at_x, at_y, x_title, y_title)], WIDTH - RIGHT, []
    if level:
        y = at_y(level[0])
        parts += [_line("level", LEFT, right, y, y), _text("tick", right, y - 5, level[1], "end")]
        taken = [(right - LETTER * len(level[1]), y - 14, right, y)]
    places = [(at_x(m.x), at_y(m.y)) for m in marks]
    for mark, (x, y) in zip(marks, places, strict=True):
        title = f"<title>{escape(f'{mark.label}: {mark.x:.4g}, {mark.y:.4g}')}</title>"
        parts.append(f'<g class="mark" transform="translate({x:.2f} {y:.2f})">{symbol(mark)}{title}</g>')
    for mark, place in zip(marks, _label_places([m.label for m in marks], places, taken), strict=True):
        if place:
            parts.append(_text("label", *place, mark.label))
    return _svg(WIDTH, HEIGHT, f"{y_title} against {x_title}", parts)


def symbol(mark: Mark) -> str:
    """The path of a mark's series, as the plot and its legend draw it."""
    kind = "hollow" if mark.hollow else "full"
    return f'<path class="{kind} c{mark.series % COLOURS}" d="{SHAPES[mark.series % len(SHAPES)]}"/>'


def bars(counts: dict[int, int], title: str, colour: int = 0, last: int = 0, most: float = 0.0) -> str:
    """Share of each whole number, percent on the left; `last` number and `most` share may be those of other charts."""
    width, height, left, top, bottom = 240, 130, 34, 8, 20
    total = sum(counts.values())
    shares = {n: counts.get(n, 0) / total for n in range(min(1, *counts), max(last, *counts) + 1)}
    up, parts = ticks(0, max(most, *shares.values()), about=4), []
    pitch, tall = (width - left) / len(shares), height - top - bottom
    for value in up:
        y = top + tall * (1 - value / up[-1])
        parts += [_line("grid", left, width, y, y), _text("tick", left - 5, y + 4, f"{100 * value:.3g}%", "end")]
    every = ceil(len(shares) / 10)
    for i, (n, share) in enumerate(shares.items()):
        x, rise = left + i * pitch, tall * share / up[-1]
        box = _box(x + pitch * 0.1, top + tall - rise, pitch * 0.8, rise)
        tip = f"<title>{n} kept: {share:.2%} of passes</title>"
        parts.append(f'<rect class="bar c{colour % COLOURS}" {box}>{tip}</rect>')
        if i % every == 0:
            parts.append(_text("tick", x + pitch / 2, height - 5, str(n), "middle"))
    return _svg(width, height, title, parts)


Grid = list[list[float | None]]  # rows of cells


def heat(grids: list[Grid], span: tuple[float, float], title: str, tell: Callable[[float], str]) -> str:
    """Maps side by side, one a scale: from a breath of the accent at span[0] and below to all of it at span[1] and
    above; None stays empty."""
    side, gap, x, parts = 120.0, 8, 0.0, []
    for rows in grids:
        columns = max(map(len, rows))
        cell = side / max(len(rows), columns)
        for r, row in enumerate(rows):
            for c, value in enumerate(row):
                tip = f"row {r}, column {c}: {'never tested' if value is None else tell(value)}"
                kind = 'class="none"' if value is None else f'class="cell" fill-opacity="{shade(value, span):.3f}"'
                parts.append(f"<rect {kind} {_box(x + c * cell, r * cell, cell, cell)}><title>{tip}</title></rect>")
        parts.append(f'<rect class="frame" {_box(x, 0, columns * cell, len(rows) * cell)}/>')
        x += columns * cell + gap
    return _svg(x - gap, side, title, parts, "map")


def shade(value: float, span: tuple[float, float]) -> float:
    """Opacity of a cell, FAINT..1."""
    low, high = span
    share = (value - low) / (high - low) if high > low else float(value > 0)
    return FAINT + (1 - FAINT) * min(max(share, 0), 1)


# --------------------------------------------------------------------------------------------------------------- pieces


def _text(kind: str, x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.2f}" x2="{x2:.2f}" y1="{y1:.2f}" y2="{y2:.2f}"/>'


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'


def _svg(width: float, height: float, title: str, parts: list[str], kind: str = "chart") -> str:
    """Named for who cannot see it."""
    box = f'viewBox="-0.5 -0.5 {width + 1:g} {height + 1:g}" preserveAspectRatio="xMinYMin"'
    head = f'<svg data-kind="{kind}" {box} role="img" aria-label="{escape(title)}">'
    return "\n".join([head, *parts, "</svg>"])


def _axes(across: list[float], up: list[float], at_x: Callable, at_y: Callable, x_title: str, y_title: str) -> str:
    parts, bottom, right = [], HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in up:
        y = at_y(value)
        parts += [_line("grid", LEFT, right, y, y), _text("tick y", LEFT - 7, y + 4, f"{value:.6g}", "end")]
    for value in across:
        x = at_x(value)
        parts += [_line("grid", x, x, TOP, bottom), _text("tick x", x, bottom + 16, f"{value:.6g}", "middle")]
    middle = (TOP + bottom) / 2
    parts.append(_text("title", (LEFT + right) / 2, HEIGHT - 8, x_title, "middle"))
    parts.append(_text("title", 12, middle, y_title, "middle", f' transform="rotate(-90 12 {middle})"'))
    return "\n".join(parts)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _label_places(
    labels: list[str], places: list[tuple[float, float]], taken: list[Box]
) -> list[tuple[float, float] | None]:
    """Where each label starts (baseline), so that it covers no mark, no other label and nothing `taken`; None where
    there is no room: the mark's tooltip still has it."""
    taken = taken + [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    found: list[tuple[float, float] | None] = []
    for label, (x, y) in zip(labels, places, strict=True):
        wide = len(label) * LETTER
        tries = [(x + 9, y + 4), (x - 9 - wide, y + 4), (x - wide / 2, y - 10), (x - wide / 2, y + 18)]
        tries += [(x + 7, y - 7), (x + 7, y + 15), (x - 7 - wide, y - 7), (x - 7 - wide, y + 15)]
        free = (t for t in tries if _is_free((t[0], t[1] - 9, t[0] + wide, t[1] + 2), taken))
        spot = next(free, None) if label else None
        if spot:
            taken.append((spot[0], spot[1] - 9, spot[0] + wide, spot[1] + 2))
        found.append(spot)
    return found


def _is_free(box: Box, taken: list[Box]) -> bool:
    inside = box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
    return inside and all(box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in taken)
