"""Scan orders and grouped units: what they visit, and in which sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import qmc

from pointillist import CodeSpec
from pointillist.models.orders import ORDERS, pass_sizes
from pointillist.models.units import cell, line, par, randar, subsample, token

WIDE = CodeSpec(grids=((4, 6),), vocab=(11,), channels=4)
SEQUENCE = CodeSpec(grids=((12,),), vocab=(11,), channels=4)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (4, 6), (5, 3), (8, 8)])
def test_every_order_visits_every_slot_once(name, shape):
    assert ORDERS[name](*shape).sort().values.tolist() == list(range(shape[0] * shape[1]))


@pytest.mark.parametrize("name", ["snake", "spiral_in", "spiral_out", "hilbert"])
def test_curves_go_from_neighbour_to_neighbour(name):
    steps = _strides(ORDERS[name](8, 8), 8)
    assert (steps == 1).all()
    assert (_strides(ORDERS["raster"](8, 8), 8) > 1).any(), "the control"


def _strides(order: torch.Tensor, width: int) -> torch.Tensor:
    return (order // width).diff().abs() + (order % width).diff().abs()


def test_small_orders_are_what_their_names_say():
    assert ORDERS["column"](2, 3).tolist() == [0, 3, 1, 4, 2, 5]
    assert ORDERS["snake"](3, 2).tolist() == [0, 1, 3, 2, 4, 5]
    assert ORDERS["spiral_in"](3, 3).tolist() == [0, 1, 2, 5, 8, 7, 6, 3, 4]
    assert ORDERS["subsample"](2, 4).tolist() == [0, 2, 5, 7, 1, 3, 4, 6]


def test_halton_is_its_sequence_in_bases_2_and_3():
    """By hand: rows floor(4 * 1/2, 1/4, 3/4, 1/8, 5/8, 3/8, 7/8), columns floor(4 * 1/3, 2/3, 1/9, 4/9, 7/9, 2/9, 5/9).
    The beginnings on 8 x 8 and 16 x 16 were recorded from Halton-MaskGIT's own code."""
    assert ORDERS["halton"](4, 4)[:7].tolist() == [2 * 4 + 1, 1 * 4 + 2, 3 * 4, 1, 2 * 4 + 3, 1 * 4, 3 * 4 + 2]
    assert ORDERS["halton"](8, 8)[:4].tolist() == [4 * 8 + 2, 2 * 8 + 5, 6 * 8, 1 * 8 + 3]
    assert ORDERS["halton"](16, 16)[:4].tolist() == [8 * 16 + 5, 4 * 16 + 10, 12 * 16 + 1, 2 * 16 + 7]


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (24, 24), (32, 32), (5, 9), (6, 4)])
def test_halton_is_scipys(shape):
    points = qmc.Halton(2, scramble=False).random(20_000)[1:] * shape  # the zeroth point is the corner
    cells = np.floor(points + 1e-9).astype(int) @ (shape[1], 1)
    first = list(dict.fromkeys(cells.tolist()))
    assert ORDERS["halton"](*shape).tolist() == first
    swapped = list(dict.fromkeys((np.floor(points[:, ::-1] / shape[::-1] * shape + 1e-9) @ (shape[1], 1)).tolist()))
    assert ORDERS["halton"](*shape).tolist() != swapped, "the control: base 3 down the rows"


def test_groups_hold_the_codes_that_their_unit_names():
    assert [g.tolist() for g in line.plan(WIDE, line.Options()).groups] == torch.arange(24).view(4, 6).tolist()
    assert line.plan(WIDE, line.Options(columns=True)).groups[1].tolist() == [1, 7, 13, 19]
    assert [g.tolist() for g in cell.plan(WIDE, cell.Options(size=2)).groups][:2] == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert [g.tolist() for g in subsample.plan(WIDE, subsample.Options(size=2)).groups][:2] == [
        [0, 3, 12, 15],
        [1, 4, 13, 16],
    ]
    assert [len(g) for g in par.plan(WIDE, par.Options(regions=4)).groups] == [1, 1, 1, 1, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(("grid", "regions", "passes"), [((24, 24), 4, 147), ((24, 24), 16, 51)])
def test_par_needs_its_published_number_of_passes(grid, regions, passes):
    spec = CodeSpec(grids=(grid,), vocab=(16384,), channels=8)
    assert len(par.plan(spec, par.Options(regions=regions)).groups) == passes


@pytest.mark.parametrize(
    ("length", "passes", "sizes"),
    [(16, 3, [1, 7, 8]), (36, 4, [1, 10, 12, 13]), (256, 8, [1, 19, 24, 31, 39, 45, 48, 49])],
)
def test_randar_draws_one_code_first_however_few_its_passes_are(length, passes, sizes):
    """As the published sampler does; the schedule alone would begin with more."""
    assert pass_sizes(length, passes, randar.Generator.first) == sizes
    assert pass_sizes(length, passes)[0] > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cell.plan(WIDE, cell.Options(size=3)), r"does not divide 4 x 6 codes; sides that do are \[1, 2\]"),
        (lambda: line.plan(SEQUENCE, line.Options()), "unit=line needs codes on one plane"),
        (lambda: token.plan(SEQUENCE, token.Options(order="snake")), "order=snake needs codes on one plane"),
        (lambda: token.Options(order="zigzag"), "choose one of raster, column, snake"),
        (lambda: par.Options(regions=5), "must be a square number"),
    ],
)
def test_units_refuse_what_they_cannot_cut(make, message):
    with pytest.raises(ValueError, match=message):
        make()
