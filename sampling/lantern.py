"""lantern: codes that look alike stand for one another (sampling/rules/lantern.py), on Jacobi drafts. Relaxed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pointillist.sampling import speculative
from pointillist.sampling.drafters import jacobi
from pointillist.sampling.rules import lantern
from pointillist.sampling.speculative import check, claim, fits, part, sample, stream

__all__ = ["Options", "check", "claim", "fits", "sample", "stream"]


@dataclass
class Options(speculative.Options):
    name: str = "lantern"
    drafter: Any = part("drafters", jacobi.Options(coupling="redraw"))
    rule: Any = part("rules", lantern.Options())
