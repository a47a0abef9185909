"""Parts of a block that keep less for the backward pass than autograd would, and sweep over memory less often.

On CPU such sweeps, and not products, take most of a training step in bf16. The formulas are those of autograd:
    RMSNorm   keeps x, not x / rms(x):  with r = 1 / rms(x), t = dy x:  dw = sum of r t,
              dx = r w dy - x r^3 (t . w) / D
    SwiGLU    keeps [a, b], neither silu(a) nor silu(a) b, of w2 (silu(a) b), and no second copy of w2
    dropout   keeps one byte a number; 16 random bits decide on each, so p is a multiple of 2^-16

A compiler finds such forms by itself, so compiled blocks have the plain ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def learns() -> bool:
    """Whether a backward pass may follow, through a graph that autograd keeps."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D] / rms(x) * weight [D], in at least fp32; x's dtype."""
    return _RMSNorm.apply(x, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        r = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        context.save_for_backward(x, weight, r)
        return (exact * r).to(x.dtype) * weight

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = context.saved_tensors
        exact, dy, w = x.to(r.dtype), grad.to(r.dtype), weight.to(r.dtype)
        t = dy * exact
        dots = (t @ w)[..., None]
        d_weight = r.flatten() @ t.flatten(0, -2)
        d_x = (dy * w).mul_(r).addcmul_(exact, dots.mul_(r**3), value=-1 / x.shape[-1])
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None


def silu_down(both: Tensor, weight: Tensor) -> Tensor:
    """w2 (silu(a) b) of both = [a, b] [..., 2 F] and w2 [D, F] -> [..., D], in an autocast's dtype or that of both."""
    kind = both.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else both.dtype
    return _SiluDown.apply(both, weight, both.dtype if both.dtype == torch.float64 else dtype)


class _SiluDown(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, both: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        read = both.to(dtype)
        context.save_for_backward(read, weight)
        context.dtype = both.dtype
        with torch.autocast(both.device.type, enabled=False):
            return F.linear(_gated(read), weight.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        both, weight = context.saved_tensors
        with torch.autocast(both.device.type, enabled=False):
            dy = grad.to(both.dtype)
            d_gated, found = dy @ weight.to(both.dtype), torch.empty_like(both)
            (a, b), (d_a, d_b) = both.chunk(2, dim=-1), found.chunk(2, dim=-1)
            gated = F.silu(a)
            torch.mul(d_gated, gated, out=d_b)
            d_weight = dy.flatten(0, -2).t() @ gated.mul_(b).flatten(0, -2)
            torch.ops.aten.silu_backward.grad_input(d_gated.mul_(b), a, grad_input=d_a)
        return found.to(context.dtype), d_weight.to(weight.dtype), None


def _gated(both: Tensor) -> Tensor:
    a, b = both.chunk(2, dim=-1)
    return F.silu(a).mul_(b)


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU with a quarter of the random numbers, which take a tenth of a step."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return _Dropout.apply(x, self.p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, p: float) -> Tensor:
        dropped = round(p * 2**16)  # of the 2^16 values of 16 bits
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        mask = (bits[: x.numel()] < dropped - 2**15).view(x.shape)
        context.save_for_backward(mask)
        context.scale = 2**16 / (2**16 - dropped)
        return x.masked_fill(mask, 0).mul_(context.scale)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = context.saved_tensors
        return grad.masked_fill(mask, 0).mul_(context.scale), None
