"""Blocks of the house transformer: attention with its key-value cache, feed-forward, norms, AdaLN.

By default LlamaGen's (Sun et al., arXiv 2406.06525): RMSNorm, SwiGLU, rotary attention, no biases. With norm=layer,
ffn=gelu, qk_norm=l2, attention_bias=qv, rope=false and adaln=block (shared at 512 pixels) they are VAR's (Tian et al.,
arXiv 2404.02905).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist.models.attention import Attend
from pointillist.models.lean import Dropout, learns, rms_norm, silu_down
from pointillist.models.linear import Linear
from pointillist.models.rope import rotate

MAX_QK_SCALE = 100.0  # of cosine attention (Liu et al., arXiv 2111.09883)


@dataclass(frozen=True)
class Shape:
    """What fixes a transformer. num_kv_heads < num_heads is grouped-query attention; models.generator.Options explains
    the rest. adaln=given: modulations come from outside, and each block adds a term of its own."""

    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int
    dropout: float = 0.0
    norm: Literal["rms", "layer"] = "rms"
    ffn: Literal["swiglu", "gelu"] = "swiglu"
    qk_norm: Literal["none", "rms", "l2"] = "none"
    attention_bias: Literal["none", "qv", "qkv"] = "none"
    rope: bool = True
    adaln: Literal["none", "given", "shared", "block"] = "none"
    adaln_head: bool = False

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.num_heads, self.num_kv_heads) < 1:
            raise ValueError(f"dim, depth and heads must be at least 1, got {self}")
        if self.dim % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"dim {self.dim}, num_heads {self.num_heads}, num_kv_heads {self.num_kv_heads}: "
                "each must be a multiple of the next"
            )
        if self.rope and self.head_dim % 4:
            raise ValueError(f"2-D RoPE needs a head width divisible by 4, got {self.dim} / {self.num_heads}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def ffn_dim(self) -> int:
        """4 * dim; of SwiGLU, which has a third matrix, LlamaGen's two thirds, rounded up to a multiple of 256."""
        return 4 * self.dim if self.ffn == "gelu" else -(-int(2 * 4 * self.dim / 3) // 256) * 256


@dataclass
class Cache:
    """Keys and values of one layer, [B, L, G, head_dim], written at any places and never cleared.

    What lies beyond an image's committed codes is scratch: the mask hides it until it is overwritten.
    """

    k: Tensor
    v: Tensor

    def write(self, k: Tensor, v: Tensor, places: Tensor, until: int) -> tuple[Tensor, Tensor]:
        """Store k, v [B, W, G, d] at places [B | 1, W]; the keys and values of places < until."""
        if len(places) == 1:
            self.k.index_copy_(1, places[0], k)
            self.v.index_copy_(1, places[0], v)
        else:
            index = places[:, :, None, None].expand_as(k)
            self.k.scatter_(1, index, k)
            self.v.scatter_(1, index, v)
        return self.k[:, :until], self.v[:, :until]

    def grow(self, length: int) -> None:
        """Room for at least `length` places."""
        if (more := length - self.k.shape[1]) > 0:
            self.k, self.v = (torch.cat([x, x.new_zeros(len(x), more, *x.shape[2:])], dim=1) for x in (self.k, self.v))

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy the entries at source [B, W] to target [B, W]."""
        for x in (self.k, self.v):
            x.scatter_(1, target[..., None, None].expand(-1, -1, *x.shape[2:]), x[_rows(source), source])


def _rows(places: Tensor) -> Tensor:
    return torch.arange(len(places), device=places.device)[:, None]


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang & Sennrich, arXiv 1910.07467), normalised in at least fp32, scaled in x's dtype."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if learns():
            return rms_norm(x, self.weight, self.eps)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def norm_of(shape: Shape) -> nn.Module:
    """The norm over a place's features: RMSNorm, or LayerNorm without scale and shift, which AdaLN brings."""
    return RMSNorm(shape.dim) if shape.norm == "rms" else nn.LayerNorm(shape.dim, eps=1e-6, elementwise_affine=False)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_dim = shape.num_kv_heads * shape.head_dim
        self.qkv = Linear(shape.dim, shape.dim + 2 * kv_dim, bias=shape.attention_bias == "qkv")
        self.out = Linear(shape.dim, shape.dim, bias=shape.attention_bias != "none")
        if shape.attention_bias == "qv":
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for width in (shape.dim, kv_dim))
        if shape.qk_norm == "rms":
            self.q_norm, self.k_norm = RMSNorm(shape.head_dim), RMSNorm(shape.head_dim)
        if shape.qk_norm == "l2":
            self.log_scale = nn.Parameter(torch.full((shape.num_heads,), math.log(4.0)))

    def project(
        self, x: Tensor, rope: Tensor | None, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normed, rotated queries [B, W, H, d] and keys, and values [B, W, G, d], of x [B, W, D]; of the dtype given or
        that of the product with x."""
        s, bias = self.shape, None
        if s.attention_bias == "qv":
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        heads = self.qkv.inner(x, bias)
        heads = heads.unflatten(-1, (s.num_heads + 2 * s.num_kv_heads, s.head_dim))
        turned, v = heads.split([s.num_heads + s.num_kv_heads, s.num_kv_heads], dim=2)
        if s.qk_norm != "none":
            q, k = turned.split([s.num_heads, s.num_kv_heads], dim=2)
            q, k = (self.q_norm(q), self.k_norm(k)) if s.qk_norm == "rms" else self._on_spheres(q, k)
            turned = torch.cat([q, k], dim=2)
        dtype = dtype or v.dtype
        turned = turned.to(dtype) if rope is None else rotate(turned, rope, dtype)
        q, k = turned.split([s.num_heads, s.num_kv_heads], dim=2)
        if learns():
            v = v.contiguous()  # attention keeps it for the backward pass, and a view would keep all heads
        return q, k, v.to(dtype)

    def _on_spheres(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys for cosine attention: softmax(scale * cos(q, k)), scale learned, a head's, at most 100.

        Attention divides by sqrt(d), which q makes up for. In at least fp32.
        """
        exact = torch.promote_types(q.dtype, torch.float32)
        scale = self.log_scale.to(exact).clamp_max(math.log(MAX_QK_SCALE)).exp() * math.sqrt(q.shape[-1])
        unit_q, unit_k = (F.normalize(x.to(exact), dim=-1) for x in (q, k))
        return unit_q * scale[:, None], unit_k

    def forward(self, x: Tensor, rope: Tensor | None, attend: Attend) -> Tensor:
        q, k, v = self.project(x, rope)
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(y.transpose(1, 2).flatten(2))

    def decode(
        self, x: Tensor, rope: Tensor | None, attend: Attend, cache: Cache, places: Tensor, until: int
    ) -> Tensor:
        q, k, v = self.project(x, rope, cache.k.dtype)
        keys, values = cache.write(k, v, places, until)
        y = attend(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
        y = y.transpose(1, 2).flatten(2)
        return self.out.inner(y.to(self.out.dtype or x.dtype))


class SwiGLU(nn.Module):
    """Shazeer, arXiv 2002.05202: w2(silu(w1 x) * w3 x), with w1 and w3 in one matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w13 = Linear(shape.dim, 2 * shape.ffn_dim, bias=False)
        self.w2 = Linear(shape.ffn_dim, shape.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if learns() and self.w2.dtype is None:
            return silu_down(self.w13(x), self.w2.weight)
        gate, value = self.w13.inner(x).chunk(2, dim=-1)
        return self.w2.inner(F.silu(gate) * value)


class MLP(nn.Module):
    """w2 gelu(w1 x), with biases and the tanh form of GELU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w1, self.w2 = Linear(shape.dim, shape.ffn_dim), Linear(shape.ffn_dim, shape.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2.inner(F.gelu(self.w1.inner(x), approximate="tanh"))


class AdaLN(nn.Sequential):
    """A condition [B, W, D] -> modulations [B, W, parts, D] (Peebles & Xie, arXiv 2212.09748)."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(dim, parts * dim))
        self.parts = parts

    def forward(self, cond: Tensor) -> Tensor:
        return super().forward(cond).unflatten(-1, (self.parts, -1))


class Block(nn.Module):
    """Pre-norm attention and feed-forward.

    With AdaLN a modulation [B, 1 | W, 6, D] scales and shifts what the branches read and gates what they add. It is of
    the block's own linear map (adaln=block), or all blocks share it and each adds its own vectors (given, shared).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attention_norm = norm_of(shape)
        self.attention = Attention(shape)
        self.ffn_norm = norm_of(shape)
        self.ffn = SwiGLU(shape) if shape.ffn == "swiglu" else MLP(shape)
        self.drop = Dropout(shape.dropout) if shape.dropout else nn.Identity()
        self.own = nn.Parameter(torch.zeros(6, shape.dim)) if shape.adaln in ("given", "shared") else None
        self.modulate = AdaLN(shape.dim, 6) if shape.adaln == "block" else None

    def forward(self, x: Tensor, rope: Tensor | None, attend: Attend, modulation: Tensor | None = None) -> Tensor:
        return self._through(x, modulation, lambda y: self.attention(y, rope, attend))

    def decode(
        self,
        x: Tensor,
        rope: Tensor | None,
        attend: Attend,
        cache: Cache,
        places: Tensor,
        until: int,
        modulation: Tensor | None = None,
    ) -> Tensor:
        return self._through(x, modulation, lambda y: self.attention.decode(y, rope, attend, cache, places, until))

    def _through(self, x: Tensor, modulation: Tensor | None, attention: Callable[[Tensor], Tensor]) -> Tensor:
        assert (modulation is None) == (self.shape.adaln == "none"), f"adaln={self.shape.adaln}, got {modulation}"
        if modulation is None:
            x = x + self.drop(attention(self.attention_norm(x)))
            return x + self.drop(self.ffn(self.ffn_norm(x)))
        whole = modulation if self.own is None else modulation + self.own
        scale1, shift1, gate1, scale2, shift2, gate2 = whole.unbind(-2)
        x = x + gate1 * self.drop(attention(self.attention_norm(x) * (1 + scale1) + shift1))
        return x + gate2 * self.drop(self.ffn(self.ffn_norm(x) * (1 + scale2) + shift2))
