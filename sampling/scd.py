"""scd: coupled speculative Jacobi decoding (SCD-MC; SJD-PAC's adaptive continuation): drafts stay where laws agree.

As sjd, but what follows a rejected draft is carried over by modified rejection instead of being redrawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pointillist.sampling import speculative
from pointillist.sampling.drafters import jacobi
from pointillist.sampling.rules import mrs
from pointillist.sampling.speculative import check, claim, fits, part, sample, stream

__all__ = ["Options", "check", "claim", "fits", "sample", "stream"]


@dataclass
class Options(speculative.Options):
    name: str = "scd"
    drafter: Any = part("drafters", jacobi.Options(coupling="maximal"))
    rule: Any = part("rules", mrs.Options())
