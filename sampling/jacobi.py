"""jacobi: the very images of ancestral decoding in fewer passes. Jacobi drafts with shared noise, verified by equality.

A lossless sampler that is lossless for each seed: = speculative with sampler.drafter=jacobi (coupling gumbel) and
sampler.rule=exact. With temperature 0 it is greedy Jacobi decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

from pointillist.sampling import speculative
from pointillist.sampling.speculative import check, claim, fits, sample, stream

__all__ = ["Options", "check", "claim", "fits", "sample", "stream"]


@dataclass
class Options(speculative.Options):
    name: str = "jacobi"
