"""gsd: codes near in rank and vector count as one (sampling/rules/gsd.py), on Jacobi drafts. Relaxed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pointillist.sampling import speculative
from pointillist.sampling.drafters import jacobi
from pointillist.sampling.rules import gsd
from pointillist.sampling.speculative import check, claim, fits, part, sample, stream

__all__ = ["Options", "check", "claim", "fits", "sample", "stream"]


@dataclass
class Options(speculative.Options):
    name: str = "gsd"
    drafter: Any = part("drafters", jacobi.Options(coupling="redraw"))
    rule: Any = part("rules", gsd.Options())
