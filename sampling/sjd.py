"""sjd: speculative Jacobi decoding (Teng et al., arXiv 2410.01699): drafts redrawn in every pass, modified rejection.

The publication's law, for batches of any size and any temperature and top-p, where its code is biased (README).
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
    name: str = "sjd"
    drafter: Any = part("drafters", jacobi.Options(coupling="redraw"))
    rule: Any = part("rules", mrs.Options())
