"""Linear: a product with a matrix, which on a CPU can be packed for decoding.

A step of decoding multiplies a few rows with every weight of the network, so it costs what reading them costs. The
usual kernels reach a part of that: they are made for many rows, and rearrange bfloat16 weights at each call. Packed,
the weight lies in oneDNN's own blocks once and for all.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist.models.processor import ROWS, least_rows, packs_fp32


class Linear(nn.Linear):
    """nn.Linear; `pack` replaces its weight by one that only products on this CPU can read.

    packed   the weight in oneDNN's layout
    dtype    of its products, where that is not x's
    """

    packed: Tensor | None = None
    dtype: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in x's dtype, or an autocast's."""
        return self.inner(x) if self.dtype is None else self.inner(x).to(x.dtype)

    def inner(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `forward`, but in the dtype of the products: for what goes on in it or is added to wider numbers. With a
        bias [out] that need not be its own."""
        bias = self.bias if bias is None else bias
        if self.dtype is None:
            return F.linear(x, self.weight, bias)
        bias = bias if bias is None else bias.to(self.dtype)
        if self.packed is None:
            return F.linear(x.to(self.dtype), self.weight, bias)
        rows = x.reshape(-1, self.in_features).to(self.dtype)
        short = least_rows() - len(rows)
        rows = F.pad(rows, (0, 0, 0, short)) if short > 0 else rows
        y = torch.ops.mkldnn._linear_pointwise(rows, self.packed, bias, "none", [], "")
        return (y[:-short] if short > 0 else y).view(*x.shape[:-1], self.out_features)

    def turn_to(self, dtype: torch.dtype) -> None:
        """Keep the weight as dtype, and make products in it."""
        self.dtype, self.weight = dtype, nn.Parameter(self.weight.detach().to(dtype), requires_grad=False)

    def pack(self, dtype: torch.dtype) -> None:
        """Keep the weight as dtype, float32 or bfloat16, in oneDNN's layout, and no other copy of it."""
        self.dtype = dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().to(dtype), ROWS)
        self.weight = None


def pack(network: nn.Module, dtype: torch.dtype, compiled: nn.Module | None = None) -> None:
    """Pack every Linear of a network, for sampling on this CPU; those of its part that is `compiled` only take the
    dtype, as a compiler packs by itself. Raises ValueError for what oneDNN has no products for: other devices, other
    dtypes, bfloat16 on processors without it."""
    layers = [module for module in network.modules() if isinstance(module, Linear) and module.weight is not None]
    for device in {layer.weight.device.type for layer in layers}:
        if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"weights are packed on a CPU as float32 or bfloat16, got {device} and {dtype}")
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("this processor has no bfloat16 products; use fp32")
    inside = set() if compiled is None else set(compiled.modules())
    for layer in layers:
        if layer in inside:
            layer.turn_to(dtype)
        else:
            layer.pack(dtype)


def sizes_of(network: nn.Module) -> dict[torch.dtype, int]:
    """How many numbers of each dtype a network's weights are, packed ones too."""
    sizes: Counter = Counter()
    for parameter in network.parameters():
        sizes[parameter.dtype] += parameter.numel()
    for layer in network.modules():
        if isinstance(layer, Linear) and layer.packed is not None:
            sizes[layer.dtype] += layer.in_features * layer.out_features
    return dict(sizes)


def is_worth_it(rows: int) -> bool:
    """Whether float32 products of so many rows are faster packed here."""
    return torch.backends.mkldnn.is_available() and packs_fp32(rows)
