"""Numbers of a sampling request that may change along the codes: guidance, temperature, top-k, top-p, min-p.

A schedule is a function of what is decoded before a slot, never of a sampler's step: a sampler that counted its own
steps would change the law that it samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Share r in [0, 1] of the codes decoded before a slot -> share of the way from the first value to the last.
CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda r: r,  # RandAR, LPD, MAR
    "cosine": lambda r: (1 - torch.cos(math.pi * r)) / 2,  # RAR, with a power
    "steps": lambda r: r,  # VAR's scales, xAR's cells: r counts the unit's steps instead, and reaches 1 at the last
}
GRAMMAR = f"NUMBER, FROM..TO, FROM..TO:CURVE or FROM..TO:CURVE:POWER (curves: {', '.join(CURVES)})"


@dataclass(frozen=True)
class Schedule:
    """first + (last - first) * curve(r ** power), with r the share of the codes decoded before a slot."""

    first: float
    last: float
    curve: str = "linear"
    power: float = 1.0

    @classmethod
    def parse(cls, name: str, words: str | float, least: float, most: float = math.inf) -> Schedule:
        """From a number or text of the GRAMMAR; the option's name and limits are for the ValueError."""
        span, *rest = str(words).split(":")
        first, dots, last = span.partition("..")
        try:
            curve, power = (*rest, *("linear", "1")[len(rest) :])
            found = cls(float(first), float(last if dots else first), curve, float(power))
        except ValueError:
            raise ValueError(f"{name} must be {GRAMMAR}, got '{words}'") from None
        if curve not in CURVES or (rest and not dots) or not 0 <= found.power < math.inf:
            raise ValueError(f"{name} must be {GRAMMAR}, power at least 0, got '{words}'")
        for value in (found.first, found.last):
            if not (least <= value <= most and math.isfinite(value)):
                span = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
                raise ValueError(f"{name} must be {span} and finite, got {value:g}")
        return found

    @property
    def constant(self) -> bool:
        return self.first == self.last

    def at(self, decoded: Tensor, steps: Tensor) -> Tensor:
        """Values [B, m] fp64 from the shares of the codes and of the unit's steps done, both [B, m]."""
        share = (steps if self.curve == "steps" else decoded).double() ** self.power
        return self.first + (self.last - self.first) * CURVES[self.curve](share)
