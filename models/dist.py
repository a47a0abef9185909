"""Dist: what a query returns. It knows how to draw codes from noise and how likely given codes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """A stateless source of randomness (pointillist.sampling.noise.Noise)."""

    def gumbel(self, stream: str, images: Tensor, slots: Tensor, tokens: int) -> Tensor: ...


@dataclass
class Categorical:
    """Independent categorical laws. logits [B, m, g, V], fp32 or fp64; -inf is allowed for excluded tokens."""

    logits: Tensor

    def sample(self, noise: Noise, images: Tensor, slots: Tensor) -> Tensor:
        """Draw codes [B, m, g]: argmax_v(log p_v + gumbel(image, slot, v)), in fp64 as the race's tail needs it.

        images [B] and slots [B, m, g] key the noise: an image's codes depend neither on its batch nor on the sampler.
        """
        gumbel = noise.gumbel("code", images[:, None, None].expand_as(slots), slots, self.logits.shape[-1])
        return (self.logits.double() + gumbel).argmax(-1)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Natural-log probability [B, m, g] of codes [B, m, g]."""
        return torch.log_softmax(self.logits, dim=-1).gather(-1, codes[..., None]).squeeze(-1)


def at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
