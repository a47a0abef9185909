"""Single passes of a generator at chosen positions of the sequence, and the least time that they can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from measure import bandwidth, gemm
from torch import nn

from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise

GUIDANCE, TOP_K = 4.0, 2000


class Passes:
    """Guided decoding of `batch` images by a unit that decodes one code a step.

    A pass at a position reads keys that no pass has written before: they are zeros, of which nothing depends that
    takes time. Codes before it are zeros, too.
    """

    def __init__(self, network: Any, batch: int) -> None:
        self.law, self.images, self.noise = target(network, GUIDANCE, top_k=TOP_K), torch.arange(batch), Noise(0)
        self.state = self.law.start(self.images % network.num_classes, self.images, self.noise)
        self.slots = torch.stack(self.law.groups(self.state), 1)  # [B, N, 1]

    def query(self, position: int, m: int) -> Any:
        """The laws of m codes from this position on, m - 1 of them drafts."""
        slots = self.slots[:, position : position + m]
        codes = torch.zeros_like(slots)
        self.law.rewind(self.state, torch.full_like(self.images, position), slots[:, :1], codes[:, :1])
        return self.law.query(self.state, slots, codes[:, 1:] if m > 1 else None)

    def step(self, position: int) -> None:
        """One of ancestral sampling: a pass, a draw, a commitment."""
        codes = self.query(position, 1).sample(self.noise, self.images, self.slots[:, position, None])
        self.law.commit(self.state, codes, keep=1)


# -------------------------------------------------------------------------------------------------------------- limits


@dataclass
class Machine:
    """What this machine reads a second, and multiplies a second in the type of a network's matrices."""

    bytes: float
    operations: float

    @classmethod
    def of(cls, network: nn.Module) -> Machine:
        return cls(bandwidth() * 1e9, gemm(dtype_of(network)) * 1e9)


@dataclass
class Work:
    """Of one pass of `rows` sequences over `places` places each, behind `prefix` others."""

    weights: float  # bytes of matrices
    cached: float  # bytes of keys and values
    products: float  # operations with matrices
    attention: float  # operations between places

    @classmethod
    def of(cls, network: Any, rows: int, places: int, prefix: int) -> Work:
        shape, until = network.transformer.shape, prefix + places
        numbers = sum(layer.in_features * layer.out_features for layer in matrices(network))
        pairs = rows * places * until * shape.num_heads * shape.head_dim * shape.depth
        cached = 2 * rows * until * shape.num_kv_heads * shape.head_dim * shape.depth
        cache = network.new_caches(1)[0].k.element_size()
        return cls(numbers * dtype_of(network).itemsize, cached * cache, 2 * numbers * rows * places, 4 * pairs)

    def least(self, machine: Machine) -> tuple[float, str]:
        """Seconds, and what needs them: reading or multiplying."""
        read = (self.weights + self.cached) / machine.bytes
        multiply = (self.products + self.attention) / machine.operations
        return max((read, "reading"), (multiply, "products"))


def matrices(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def dtype_of(network: nn.Module) -> torch.dtype:
    """Of the matrices, packed or not."""
    layer = matrices(network)[0]
    return layer.dtype or layer.weight.dtype
