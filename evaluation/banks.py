"""Banks of feature vectors, read in blocks: rows, squared distances between two banks, distances to neighbours.

A bank is float16 or float32 [N, D], usually memory-mapped. No more than a few blocks of it are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# What float32 rounding may make of |u|^2 - 2 u.v + |v|^2, relative to |u|^2 + |v|^2. Measured at D = 2048: standard
# deviation 8e-8. A larger allowance costs density: 1e-6 of it lost 1.3e-4 on noise, whose distances are nearly equal.
ROUNDING = 5e-7


def read(bank: np.ndarray, rows: slice | np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """Some rows of a bank, [n, D]. Raises ValueError when one holds NaN or infinity."""
    x = torch.from_numpy(np.array(bank[rows])).to(dtype)
    bad = int((~x.sum(1).isfinite()).sum())  # the sum of a row is finite when its values are
    if bad:
        raise ValueError(f"{bad} of {len(x)} feature vectors hold NaN or infinity; look at the images behind them")
    return x


def slices(count: int, block: int, start: int = 0) -> Iterator[slice]:
    """start..count in steps of `block`."""
    for begin in range(start, count, block):
        yield slice(begin, min(begin + block, count))


def require(option: str, least: int, samples: int | None, reference: int | None) -> None:
    """ValueError unless both sets hold `least` images, which `option` asks for; None passes: its size is not known."""
    for what, count in (("samples", samples), ("reference images", reference)):
        if count is not None and count < least:
            raise ValueError(f"{option} needs at least {least} {what}, got {count}; lower it or give more images")


class Distances:
    """Squared Euclidean distances between the rows of banks x [N, D] and y [M, D], float32.

    Distances do not change when both banks are shifted, but the rounding of |u|^2 - 2 u.v + |v|^2 does, so a mean is
    taken off first.
    """

    symmetric = True  # d(u, v) is d(v, u), but for its rounding
    block = 2500  # vectors on a side of a block of distances: 25 MB

    def __init__(self, x: np.ndarray, y: np.ndarray):
        assert x.shape[1] == y.shape[1], f"features of width {x.shape[1]} and {y.shape[1]} cannot be compared"
        self.x, self.y = x, y
        self.centre = read(x, slice(0, 1000), torch.float64).mean(0).float()
        self.x_squares = self._squares(x)  # [N]
        self.y_squares = self.x_squares if y is x else self._squares(y)  # [M]

    def blocks(self, upper: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows of x, rows of y, distances [n, m]), which the caller may overwrite; with `upper`, only the blocks on
        and above the diagonal."""
        for i in slices(len(self.x), self.block):
            u = self._rows(self.x, i)
            for j in slices(len(self.y), self.block, i.start if upper else 0):
                yield i, j, self._between(u, i, self._rows(self.y, j), j)

    def ties(self, squares: Tensor, radii: Tensor) -> Tensor:
        """[N]: distances that lie this near to the radius of the ball around a vector are equal to it.

        Without it, the k-th neighbour itself falls inside or outside of a ball as rounding has it, and copies have a
        distance other than 0 from each other.
        """
        return ROUNDING * (squares + radii)

    def _rows(self, bank: np.ndarray, rows: slice) -> Tensor:
        return read(bank, rows) - self.centre

    def _squares(self, bank: np.ndarray) -> Tensor:
        parts = [self._rows(bank, rows).double().square().sum(1) for rows in slices(len(bank), self.block)]
        return torch.cat(parts).float()

    def _between(self, u: Tensor, i: slice, v: Tensor, j: slice) -> Tensor:
        d = torch.addmm(self.y_squares[j], u, v.T, alpha=-2)  # [n, m]
        return d.add_(self.x_squares[i, None]).clamp_(min=0)


class AdmDistances(Distances):
    """The same as the ADM evaluator has them: norms, products and sums rounded to float16.

    It works in blocks of 10,000 x 10,000 and takes float32 for those in which a float16 value is not finite
    (guided-diffusion, evaluations/evaluator.py, DistanceBlock).
    """

    symmetric = False  # (|u|^2 - 2 u.v) + |v|^2 rounds twice
    adm_block = 10_000

    def __init__(self, x: np.ndarray, y: np.ndarray):
        super().__init__(x, y)
        assert self.adm_block % self.block == 0, f"blocks of {self.block} do not fill {self.adm_block}"
        self.x_halves = self._half_squares(x)
        self.y_halves = self.x_halves if y is x else self._half_squares(y)
        self.overflows = {
            (i.start // self.adm_block, j.start // self.adm_block): self._overflow(i, j)
            for i in slices(len(x), self.adm_block)
            for j in slices(len(y), self.adm_block)
        }

    def ties(self, squares: Tensor, radii: Tensor) -> Tensor:
        """None: float16 makes ties of its own, and they count as the ADM evaluator counts them."""
        return torch.zeros_like(radii)

    def _rows(self, bank: np.ndarray, rows: slice) -> Tensor:
        return read(bank, rows)

    def _half_squares(self, bank: np.ndarray) -> Tensor:
        parts = [read(bank, rows).half().square().float().sum(1).half() for rows in slices(len(bank), self.block)]
        return torch.cat(parts)

    def _overflow(self, i: slice, j: slice) -> bool:
        """Whether a block of the ADM evaluator holds a value that is not finite. 2 u.v <= |u|^2 + |v|^2, so small norms
        need no look."""
        x, y = self.x_halves[i].float().max(), self.y_halves[j].float().max()
        if 2 * (x + y) < torch.finfo(torch.float16).max:
            return False
        return any(
            not self._half_between(read(self.x, a), a, read(self.y, b), b).isfinite().all()
            for a in slices(i.stop, self.block, i.start)
            for b in slices(j.stop, self.block, j.start)
        )

    def _between(self, u: Tensor, i: slice, v: Tensor, j: slice) -> Tensor:
        if self.overflows[i.start // self.adm_block, j.start // self.adm_block]:
            return super()._between(u, i, v, j)
        return self._half_between(u, i, v, j).float()

    def _half_between(self, u: Tensor, i: slice, v: Tensor, j: slice) -> Tensor:
        products = (u.half().float() @ v.half().float().T).half()  # summed in float32, as a GPU does it
        return products.mul_(-2).add_(self.x_halves[i, None]).add_(self.y_halves[j]).clamp_(min=0)


def radii(distances: Distances, k: int) -> Tensor:
    """Squared distance of each vector of a bank to its k-th nearest other one, float32 [N].

    `distances` are those of a bank with itself. Each block off the diagonal serves its rows and its columns.
    """
    assert distances.x is distances.y, "radii are distances within one bank"
    nearest = torch.full((len(distances.x), k), torch.inf)
    for i, j, d in distances.blocks(upper=distances.symmetric):
        if i == j:
            d.fill_diagonal_(torch.inf)  # itself
        _keep_smallest(nearest[i], d)
        if distances.symmetric and i != j:
            _keep_smallest(nearest[j], d.T)
    return nearest.amax(1)


def _keep_smallest(known: Tensor, found: Tensor) -> None:
    """The k smallest of `known` [n, k] and `found` [n, m] of each row, in place."""
    k = known.shape[1]
    new = found.topk(min(k, found.shape[1]), dim=1, largest=False, sorted=False).values
    known.copy_(torch.cat([known, new], 1).topk(k, dim=1, largest=False, sorted=False).values)
