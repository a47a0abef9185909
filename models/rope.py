"""2-D rotary position embedding (Su et al., arXiv 2104.09864) in LlamaGen's layout."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(position: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """[..., head_dim / 2, 2] cosines and sines of integer (row, column) positions [..., 2].

    The first half of the channel pairs turns by row * f_j, the second by column * f_j, with
    f_j = base^(-2j / (head_dim / 2)). A position of (-1, -1) gets zeros, not the identity: the queries and keys of
    condition tokens vanish in the published LlamaGen, PAR and RandAR weights, and only their values carry content.
    """
    half = head_dim // 2
    frequency = 1.0 / base ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    angle = (position[..., None].float() * frequency).flatten(-2)  # [..., 2, head_dim / 4] -> [..., head_dim / 2]
    table = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return table.masked_fill(position[..., :1, None] < 0, 0.0)


def rotate(x: Tensor, table: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Turn adjacent channel pairs of x [B, L, H, head_dim] by table [L | B, L, head_dim / 2, 2], in at least fp32; the
    result is of x's dtype or the one given."""
    exact = torch.promote_types(x.dtype, torch.float32)
    pairs = x.to(exact).unflatten(-1, (-1, 2))  # [B, L, H, head_dim / 2, 2]
    turn = table.to(exact).unsqueeze(-3)
    if torch.compiler.is_compiling():  # inductor writes no complex kernels, but fuses this form
        (a, b), (cos, sin) = pairs.unbind(-1), turn.unbind(-1)
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)
    else:  # eager: one product, 2.5 times faster on CPU
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn))
    return turned.flatten(-2).to(dtype or x.dtype)
