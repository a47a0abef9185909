"""Linear: a product with a matrix, which on a CPU can be packed for decoding.

A step of decoding multiplies a few rows with every weight of the network, so it costs what reading them costs. The
usual kernels reach a part of that: they are made for many rows, and rearrange bfloat16 weights at each call. Packed,
the weight lies in oneDNN's own blocks once and for all.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 4  # oneDNN is slower with two rows than with four, so fewer are filled up


class Linear(nn.Linear):
    """nn.Linear; `pack` replaces its weight by one that only products on this CPU can read."""

    packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., in] -> [..., out] in x's dtype, with a bias [out] that need not be its own."""
        if self.packed is None:
            return F.linear(x, self.weight, bias)
        rows = x.reshape(-1, self.in_features).to(self.packed_as)
        short = ROWS - len(rows)
        rows = F.pad(rows, (0, 0, 0, short)) if short > 0 else rows
        bias = bias if bias is None else bias.to(self.packed_as)
        y = torch.ops.mkldnn._linear_pointwise(rows, self.packed, bias, "none", [], "")
        return (y[:-short] if short > 0 else y).view(*x.shape[:-1], self.out_features).to(x.dtype)

    def pack(self, dtype: torch.dtype) -> None:
        """Keep the weight as dtype, float32 or bfloat16, in oneDNN's layout, and no other copy of it."""
        self.packed_as = dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().to(dtype), ROWS)
        self.weight = None


def pack(network: nn.Module, dtype: torch.dtype) -> None:
    """Pack every Linear of a network, for sampling on this CPU. Raises ValueError for what oneDNN has no products for:
    other devices, other dtypes, bfloat16 on processors without it."""
    layers = [module for module in network.modules() if isinstance(module, Linear) and module.weight is not None]
    for device in {layer.weight.device.type for layer in layers}:
        if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"weights are packed on a CPU as float32 or bfloat16, got {device} and {dtype}")
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("this processor has no bfloat16 products; use fp32")
    for layer in layers:
        layer.pack(dtype)


def sizes_of(network: nn.Module) -> dict[torch.dtype, int]:
    """How many numbers of each dtype a network's weights are, packed ones too."""
    sizes: Counter = Counter()
    for parameter in network.parameters():
        sizes[parameter.dtype] += parameter.numel()
    for layer in network.modules():
        if isinstance(layer, Linear) and layer.packed is not None:
            sizes[layer.packed_as] += layer.in_features * layer.out_features
    return dict(sizes)


def is_worth_it(rows: int) -> bool:
    """Whether float32 products of so many rows are faster packed here: from four rows on, and with fewer wherever the
    other kernels, MKL's, are not on the processors that they are made for (benchmarks/decode.py)."""
    return torch.backends.mkldnn.is_available() and (rows >= ROWS or not _is_intel())


@cache
def _is_intel() -> bool:
    about = Path("/proc/cpuinfo")
    return about.is_file() and "GenuineIntel" in about.read_text(encoding="utf-8")
