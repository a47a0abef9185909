"""next-dither: each pass doubles the codes, on the lattices of ordered dithering (Bayer's matrix).

Codes are visited by their rank in Bayer's matrix, so that those of a pass lie as far from one another as they can: 1,
1, 2, 4, 8 .. of them, the last pass half of the image. A place stands where its code will be and reads the code that
its rank leads to without its highest bit, so that every pass reads all that is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointillist import CodeSpec
from pointillist.models.plan import COND, Plan, plane, positions


@dataclass
class Options:
    name: str = "dither"


def plan(spec: CodeSpec, options: Options) -> Plan:
    """L = N places, 1 + log2 N steps on a square of a power of two. Raises Misfit for codes that lie on no plane."""
    grid, side = positions(spec), max(plane(spec, "dither"))
    ranks = [bayer(row, column, (side - 1).bit_length()) for row, column in grid.tolist()]
    slot_of = {rank: slot for slot, rank in enumerate(ranks)}
    visited = sorted(ranks)
    order = torch.tensor([slot_of[rank] for rank in visited])
    reads = torch.tensor([COND] + [slot_of[parent(rank, slot_of)] for rank in visited[1:]])
    step = torch.tensor([rank.bit_length() for rank in visited]).unique(return_inverse=True)[1]
    return Plan(reads[:, None], order[:, None], torch.where(reads == COND, -1, order), grid, step)


def bayer(row: int, column: int, bits: int) -> int:
    """Rank of a pixel of a 2^bits square: the bits of row xor column and of row in turn, coarsest lowest."""
    levels = (((row >> i & 1) + 2 * ((row ^ column) >> i & 1)) << 2 * (bits - 1 - i) for i in range(bits))
    return sum(levels)


def parent(rank: int, present: dict[int, int]) -> int:
    """The rank without its highest bits, as far as needed to meet a code that the grid has; 0 is always there."""
    while (rank := rank & ~(1 << rank.bit_length() - 1)) not in present:
        pass
    return rank
