"""Scan orders: permutations of a grid's slots, [N] int64 in decode order. Each is a function of (height, width)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def raster(height: int, width: int) -> Tensor:
    """Row by row (LlamaGen)."""
    return torch.arange(height * width)


def column(height: int, width: int) -> Tensor:
    """Column by column."""
    return raster(height, width).view(height, width).T.flatten()


def snake(height: int, width: int) -> Tensor:
    """Row by row, every second one backwards: neighbours in time are neighbours in space."""
    rows = raster(height, width).view(height, width).clone()
    rows[1::2] = rows[1::2].flip(1)
    return rows.flatten()


def spiral_in(height: int, width: int) -> Tensor:
    """Clockwise from the top left corner to the centre."""
    rest, turns = raster(height, width).view(height, width), []
    while rest.numel():
        turns.append(rest[0])
        rest = rest[1:].T.flip(0)  # what is left, turned so that its next edge lies on top
    return torch.cat(turns)


def spiral_out(height: int, width: int) -> Tensor:
    """From the centre outwards."""
    return spiral_in(height, width).flip(0)


def hilbert(height: int, width: int) -> Tensor:
    """Hilbert's curve on the smallest square of a power of two that covers the grid, left out where there is none."""
    side = 1 << (max(height, width) - 1).bit_length()
    cells = sorted((_hilbert_index(side, r, c), r * width + c) for r in range(height) for c in range(width))
    return torch.tensor([slot for _, slot in cells])


def _hilbert_index(side: int, row: int, col: int) -> int:
    """Distance along the curve (Warren, Hacker's Delight, 2nd ed., 16-5)."""
    index, half = 0, side // 2
    while half:
        right, down = int(bool(col & half)), int(bool(row & half))
        index += half * half * ((3 * right) ^ down)
        if not down:
            if right:
                row, col = half * 2 - 1 - row % (half * 2), half * 2 - 1 - col % (half * 2)
            row, col = col, row
        half //= 2
    return index


def subsample(height: int, width: int) -> Tensor:
    """Every second row and column first, then the three shifted lattices: coarse before fine."""
    grid = raster(height, width).view(height, width)
    return torch.cat([grid[r::2, c::2].flatten() for r, c in ((0, 0), (1, 1), (0, 1), (1, 0))])


def random(height: int, width: int) -> Tensor:
    """One fixed random order, the same for every image."""
    return torch.randperm(height * width, generator=torch.Generator().manual_seed(0))


def halton(height: int, width: int) -> Tensor:
    """Each code far from those before it: Halton's sequence (1960) from its first point on, in base 2 down the rows and
    base 3 along the columns, each cell when it is first met (Halton-MaskGIT, Besnier et al., arXiv 2503.17076)."""
    cells, point = {}, 0  # a dict keeps what came first first
    while len(cells) < height * width:
        point += 1
        cells[_radical_inverse(point, 2, height) * width + _radical_inverse(point, 3, width)] = None
    return torch.tensor(list(cells))


def _radical_inverse(point: int, base: int, side: int) -> int:
    """floor(side * 0.d_0 d_1 ..) of the point's digits, lowest first; in integers, as 24 / 3 must not round down."""
    numerator, denominator = 0, 1
    while point:
        point, digit = divmod(point, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator * side // denominator


ORDERS: dict[str, Callable[[int, int], Tensor]] = {
    f.__name__: f for f in (raster, column, snake, spiral_in, spiral_out, hilbert, subsample, halton, random)
}


def pass_sizes(length: int, passes: int, first: int | None = None) -> list[int]:
    """Codes decoded in each pass: after pass c about (1 - cos(pi/2 (c + 1) / passes)) of them are there (RandAR, and
    MaskGIT's cosine schedule read from the other end); passes = 0 is one code a pass. first: of the first pass, where
    that does not follow the schedule."""
    if not passes:
        return [1] * length
    sizes = [first] if first and length else []
    done = sum(sizes)
    while done < length:
        target = int((1 - math.cos(math.pi / 2 * (len(sizes) + 1) / passes)) * length + 1)
        sizes.append(min(max(min(target, length) - done, 1), length - done))
        done += sizes[-1]
    return sizes
