"""zipar: rows advance side by side (ZipAR, He et al., arXiv 2412.04062). Approximate.

A row starts when the one above has `window` codes; the first row is decoded alone, as in the released code. A row's
first code reads the newest code of the row above in the place of that row's last one, if that is not decoded yet. H
rows of W codes take W + (H - 2) window + W passes; with window = W it is ancestral decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.models.front import Front
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace


@dataclass
class Options:
    name: str = "zipar"
    window: int = 4  # codes that a row is ahead of the next


def claim(options: Options) -> str:
    """Another law than the unit's, and nothing says how far."""
    return "approximate"


def fits(generator: Any) -> bool:
    """It needs windows over discrete codes."""
    return bool(generator.windows)


def check(generator: Any, options: Options) -> None:
    """Raises ValueError where these options do not fit the generator's codes."""
    plan, grids = generator.plan, generator.spec.grids
    raster = [torch.tensor([slot]) for slot in range(plan.num_codes)]
    if generator.any_order or len(grids) > 1 or len(grids[0]) < 2 or not all(map(torch.equal, plan.groups, raster)):
        raise ValueError("sampler=zipar needs one code at a time in raster order on one plane; use sampler=jacobi")
    if not 1 <= options.window <= grids[0][1]:
        raise ValueError(f"sampler.window must lie in 1..{grids[0][1]}, the width of the plane, got {options.window}")


def fronts(height: int, width: int, window: int) -> list[list[int]]:
    """The slots of each pass."""
    starts = [0] + [width + row * window for row in range(height - 1)]
    passes = range(starts[-1] + width)
    return [[row * width + t - start for row, start in enumerate(starts) if 0 <= t - start < width] for t in passes]


@torch.inference_mode()
def sample(law: Any, cond: Tensor, noise: Noise, images: Tensor, trace: Trace, options: Options) -> Tensor:
    """Codes [B, N, ...] of images [B] (global indices, which key the noise) with conditions cond [B]."""
    height, width = law.spec.grids[0]
    state, passes = law.start(cond, images, noise), fronts(height, width, options.window)
    fed = torch.zeros(law.plan.length, dtype=torch.bool, device=cond.device)
    for now in passes:
        slots = torch.tensor(now, device=cond.device).expand(len(cond), -1)[..., None]  # [B, m, 1]
        first = [slot for slot in now if slot % width == 0 and slot >= 2 * width and options.window < width]
        reads = torch.tensor([slot - 1 for slot in first], dtype=torch.long, device=cond.device)
        newest = torch.tensor(
            [slot - width + options.window - 1 for slot in first], dtype=torch.long, device=cond.device
        )
        stand_in = reads.expand(len(cond), -1)[..., None], law.finish(state)[:, newest][:, :, None]
        dist = trace.query(law, state, slots, None, Front(fed, stand_in))
        law.commit(state, dist.sample(noise, images, slots), keep=len(now))
        trace.kept(len(now), len(cond))
    trace.steps = law.plan.num_codes
    trace.finished(len(passes), len(cond))
    return law.finish(state)
