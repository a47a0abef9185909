"""The house transformer: Llama blocks (RMSNorm, SwiGLU, rotary attention, no biases) and their key-value cache.

With default options it is LlamaGen's network (Sun et al., arXiv 2406.06525), to which the published weights map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist.models.attention import Attend, masked
from pointillist.models.rope import rotate

# LlamaGen's published sizes, and small ones for two CPU cores.
SIZES = {
    "nano": {"dim": 64, "depth": 2, "num_heads": 2},
    "micro": {"dim": 256, "depth": 4, "num_heads": 4},
    "mini": {"dim": 320, "depth": 6, "num_heads": 5},
    "small": {"dim": 384, "depth": 8, "num_heads": 6},
    "B": {"dim": 768, "depth": 12, "num_heads": 12},
    "L": {"dim": 1024, "depth": 24, "num_heads": 16},
    "XL": {"dim": 1280, "depth": 36, "num_heads": 20},
    "XXL": {"dim": 1536, "depth": 48, "num_heads": 24},
    "1B": {"dim": 2048, "depth": 22, "num_heads": 32},
    "3B": {"dim": 3200, "depth": 24, "num_heads": 32},
}


@dataclass(frozen=True)
class Shape:
    """The numbers that fix a transformer. num_kv_heads < num_heads is grouped-query attention."""

    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int
    qk_norm: bool = False
    dropout: float = 0.0
    modulated: bool = False  # AdaLN-zero: forward and decode take a modulation

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.num_heads, self.num_kv_heads) < 1:
            raise ValueError(f"dim, depth and heads must be at least 1, got {self}")
        if self.dim % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"dim {self.dim}, num_heads {self.num_heads}, num_kv_heads {self.num_kv_heads}: "
                "each must be a multiple of the next"
            )
        if self.head_dim % 4:
            raise ValueError(f"2-D RoPE needs a head width divisible by 4, got {self.dim} / {self.num_heads}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def ffn_dim(self) -> int:
        """LlamaGen's SwiGLU width: two thirds of 4 * dim, rounded up to a multiple of 256."""
        return -(-int(2 * 4 * self.dim / 3) // 256) * 256


@dataclass
class Cache:
    """Keys and values of one layer, [B, L, G, head_dim], written at any places and never cleared.

    What lies beyond an image's committed codes is scratch: the mask hides it until it is overwritten.
    """

    k: Tensor
    v: Tensor

    def write(self, k: Tensor, v: Tensor, places: Tensor, until: int) -> tuple[Tensor, Tensor]:
        """Store k, v [B, W, G, d] at places [B, W]; the keys and values of places < until."""
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
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_dim = shape.num_kv_heads * shape.head_dim
        self.qkv = nn.Linear(shape.dim, shape.dim + 2 * kv_dim, bias=False)
        self.out = nn.Linear(shape.dim, shape.dim, bias=False)
        if shape.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(shape.head_dim), RMSNorm(shape.head_dim)

    def project(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [B, W, H, d] and keys, and values [B, W, G, d], of x [B, W, D]."""
        s = self.shape
        heads = self.qkv(x).unflatten(-1, (s.num_heads + 2 * s.num_kv_heads, s.head_dim))
        turned, v = heads.split([s.num_heads + s.num_kv_heads, s.num_kv_heads], dim=2)
        if s.qk_norm:
            q, k = turned.split([s.num_heads, s.num_kv_heads], dim=2)
            turned = torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)
        q, k = rotate(turned, rope).split([s.num_heads, s.num_kv_heads], dim=2)
        return q, k, v

    def forward(self, x: Tensor, rope: Tensor, attend: Attend) -> Tensor:
        q, k, v = self.project(x, rope)
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(y.transpose(1, 2).flatten(2))

    def decode(self, x: Tensor, rope: Tensor, attend: Attend, cache: Cache, places: Tensor, until: int) -> Tensor:
        q, k, v = self.project(x, rope)
        keys, values = cache.write(k.to(cache.k.dtype), v.to(cache.v.dtype), places, until)
        y = attend(q.to(keys.dtype).transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
        return self.out(y.to(x.dtype).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202): w2(silu(w1 x) * w3 x), with w1 and w3 in one matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w13 = nn.Linear(shape.dim, 2 * shape.ffn_dim, bias=False)
        self.w2 = nn.Linear(shape.ffn_dim, shape.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w13(x).chunk(2, dim=-1)
        return self.w2(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm attention and feed-forward.

    A modulated block scales and shifts what its branches read and gates what they add (AdaLN-zero, Peebles & Xie,
    arXiv 2212.09748): by its own vectors plus a modulation that all blocks share (VAR's shared AdaLN).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.dim)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.dim)
        self.ffn = FeedForward(shape)
        self.drop = nn.Dropout(shape.dropout) if shape.dropout else nn.Identity()
        self.own = nn.Parameter(torch.zeros(6, shape.dim)) if shape.modulated else None

    def forward(self, x: Tensor, rope: Tensor, attend: Attend, modulation: Tensor | None = None) -> Tensor:
        return self._through(x, modulation, lambda y: self.attention(y, rope, attend))

    def decode(
        self,
        x: Tensor,
        rope: Tensor,
        attend: Attend,
        cache: Cache,
        places: Tensor,
        until: int,
        modulation: Tensor | None = None,
    ) -> Tensor:
        return self._through(x, modulation, lambda y: self.attention.decode(y, rope, attend, cache, places, until))

    def _through(self, x: Tensor, modulation: Tensor | None, attention: Callable[[Tensor], Tensor]) -> Tensor:
        if self.own is None:
            x = x + self.drop(attention(self.attention_norm(x)))
            return x + self.drop(self.ffn(self.ffn_norm(x)))
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.own).unbind(-2)
        x = x + gate1 * self.drop(attention(self.attention_norm(x) * (1 + scale1) + shift1))
        return x + gate2 * self.drop(self.ffn(self.ffn_norm(x) * (1 + scale2) + shift2))


class Transformer(nn.Module):
    """Blocks and a final norm over embedded places; embedding and head belong to the generator."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.dim)

    def forward(self, x: Tensor, rope: Tensor, attend: Attend, modulation: Tensor | None = None) -> Tensor:
        """x [B, L, D], rope [L, d / 2, 2], modulation [B, L, 6, D] where the shape has it -> [B, L, D]."""
        for block in self.blocks:
            x = block(x, rope, attend, modulation)
        return self.norm(x)

    def decode(
        self,
        x: Tensor,
        rope: Tensor,
        mask: Tensor,
        caches: list[Cache],
        places: Tensor,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """A window x [B, W, D] at places [B, W] -> [B, W, D]; mask [B, W, K] over the first K places of the cache."""
        attend = masked(mask[:, None])
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block.decode(x, rope, attend, cache, places, mask.shape[-1], modulation)
        return self.norm(x)

    def new_caches(self, batch: int, length: int) -> list[Cache]:
        """Empty caches for `length` places, in the weights' dtype and device. Zeros: a masked NaN is still a NaN."""
        s, weight = self.shape, self.norm.weight
        shape = (batch, length, s.num_kv_heads, s.head_dim)
        return [Cache(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in range(s.depth)]
