"""ancestral: the unit's groups one after another, each drawn from its law given all before it. Exact by definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace


@dataclass
class Options:
    name: str = "ancestral"


@torch.inference_mode()
def sample(law: Any, cond: Tensor, noise: Noise, images: Tensor, trace: Trace, options: Options) -> Tensor:
    """Codes [B, N, ...] of images [B] (global indices, which key the noise) with conditions cond [B]."""
    state = law.start(cond, images, noise)
    groups, passes = law.groups(state), 0
    for group in groups:
        slots = group[:, None]  # [B, 1, g]
        dist = trace.query(law, state, slots)
        passes += dist.passes
        law.commit(state, dist.sample(noise, images, slots), keep=1)
    trace.kept(1, len(groups) * len(cond))
    trace.finished(passes, len(cond))
    return law.finish(state)
