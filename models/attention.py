"""Attention kernels: one function, four implementations of the same mathematics.

    sdpa      torch.nn.functional.scaled_dot_product_attention; the default, everywhere
    matmul    written out, scores in memory; for short sequences in bf16 on CPU (benchmarks/train_step.py)
    flex      torch FlexAttention: block masks without a mask tensor; forward only on CPU (no backward there)
    xformers  xformers.ops.memory_efficient_attention; NVIDIA GPUs only

flex and xformers are imported when chosen, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist.models.plan import Plan

BACKENDS = ("sdpa", "matmul", "flex", "xformers")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q [B, H, Q, d], k and v [B, G, K, d] -> [B, H, Q, d]


def masked(mask: Tensor | None) -> Attend:
    """SDPA under a bool mask [.., Q, K], whose rows the decode path gathers from the plan's; None hides nothing."""
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def planned(plan: Plan, backend: str, device: torch.device) -> Attend:
    """Attention over a whole planned sequence: the training path."""
    if backend == "sdpa":
        return _sdpa(plan, device)
    if backend == "matmul":
        return _matmul(plan, device)
    if backend == "flex":
        return _flex(plan, device)
    if backend == "xformers":
        return _xformers(plan, device)
    raise ValueError(f"unknown attention '{backend}'; choose one of {', '.join(BACKENDS)}")


def _sdpa(plan: Plan, device: torch.device) -> Attend:
    if not plan.is_triangular:
        return masked(plan.mask.to(device))
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def _matmul(plan: Plan, device: torch.device) -> Attend:
    bias = torch.zeros(plan.length, plan.length, device=device).masked_fill(~plan.mask.to(device), float("-inf"))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        repeat = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(repeat, 1) if repeat > 1 else x for x in (k, v))
        flat = [x.flatten(0, 1) for x in (q, k, v)]  # [B * H, L, d]
        whole = bias.to(q.dtype).expand(len(flat[0]), -1, -1)
        scores = torch.baddbmm(whole, flat[0], flat[1].transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        return (scores.softmax(-1).to(v.dtype) @ flat[2]).view(q.shape)

    return attend


def _flex(plan: Plan, device: torch.device) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if device.type == "cpu" and torch.is_grad_enabled():
        raise ValueError("attention=flex has no backward pass on CPU; use attention=sdpa there")
    step, causal = plan.step.to(device), plan.causal

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own_step = (step[k] == step[q]) & (k <= q) if causal else step[k] == step[q]
        return (step[k] < step[q]) | own_step

    blocks = create_block_mask(visible, None, None, plan.length, plan.length, device=device)
    kernel = _compiled_flex() if device.type == "cuda" else flex_attention
    return lambda q, k, v: kernel(q, k, v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _xformers(plan: Plan, device: torch.device) -> Attend:
    if device.type != "cuda":
        raise ValueError(f"attention=xformers needs an NVIDIA GPU, the model is on {device.type}; use attention=sdpa")
    from xformers.ops import LowerTriangularMask, memory_efficient_attention

    bias = torch.zeros(plan.length, plan.length, device=device).masked_fill(~plan.mask.to(device), float("-inf"))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        repeat = q.shape[1] // k.shape[1]
        q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)))
        mask = (
            LowerTriangularMask() if plan.is_triangular else bias.to(q.dtype).expand(*q.shape[:1], q.shape[2], -1, -1)
        )
        return memory_efficient_attention(q, k, v, attn_bias=mask).transpose(1, 2)

    return attend
