"""Cross-entropy of a linear head a few rows at a time: the logits [B, N, V] of a batch are never in memory at once.

The backward pass makes each chunk's logits anew. With p = softmax(W h + b), c the code and g the gradient of the loss
by a row's nats:  dh = g (p - 1_c) W,  dW = sum over rows of (p - 1_c)^T (g h),  db = sum over rows of g (p - 1_c).
Products are made in the dtype of an autocast and log-sum-exp in at least fp32, as without chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits in memory at once. On CPU 512 rows of 16384, whose products are as fast as those of all rows.
CHUNK = {"cpu": 2**23, "cuda": 2**26}
PART = 2**20  # of them, on CPU, turned to fp32 at once: what a core's cache holds


def nats(hidden: Tensor, weight: Tensor, bias: Tensor | None, codes: Tensor, vocab: tuple[int, ...]) -> Tensor:
    """-log p [...] in at least fp32 of codes [...] of one book, or [..., K] of K, whose nats are added.

    hidden [..., D]; weight [sum(vocab), D] and bias [sum(vocab)] hold one book after another. Differentiable once.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    dtype = hidden.dtype if hidden.dtype == torch.float64 else dtype  # which an autocast leaves as it is
    rows = codes.reshape(-1, len(vocab))
    return ChunkedNats.apply(hidden.flatten(0, -2), weight, bias, rows, vocab, dtype).view(hidden.shape[:-1])


class ChunkedNats(torch.autograd.Function):
    """hidden [R, D], weight [sum(vocab), D], bias [sum(vocab)] or None, codes [R, K] -> nats [R]."""

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        codes: Tensor,
        vocab: tuple[int, ...],
        dtype: torch.dtype,
    ) -> Tensor:
        read = hidden.to(dtype)
        found = read.new_empty(codes.shape, dtype=torch.promote_types(dtype, torch.float32))  # [R, K]
        with torch.autocast(read.device.type, enabled=False):
            for k, book in enumerate(books(vocab)):
                w, b = (x if x is None else x[book].to(dtype) for x in (weight, bias))
                for rows in chunks(read, vocab[k]):
                    found[rows, k] = nats_of(F.linear(read[rows], w, b), codes[rows, k])
        context.save_for_backward(read, weight, bias, codes, found)
        context.vocab, context.hidden_dtype = vocab, hidden.dtype
        return found.sum(1)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        read, weight, bias, codes, found = context.saved_tensors
        exact = torch.promote_types(read.dtype, torch.float32)
        wanted = zip((read, weight, bias), context.needs_input_grad[:3], strict=True)
        d_hidden, d_weight, d_bias = (torch.zeros_like(x, dtype=exact) if want else None for x, want in wanted)
        with torch.autocast(read.device.type, enabled=False):
            for k, book in enumerate(books(context.vocab)):
                w, b = (x if x is None else x[book].to(read.dtype) for x in (weight, bias))
                for rows in chunks(read, context.vocab[k]):
                    h, g = read[rows], grad[rows, None]
                    error = F.linear(h, w, b).softmax(-1)
                    at_code = torch.expm1(-found[rows, k, None]).to(error.dtype)  # p - 1 to the last bit, near 0 too
                    error.scatter_(1, codes[rows, k, None], at_code)  # p - 1_c, each number rounded once
                    if d_hidden is not None:
                        d_hidden[rows] += (error @ w) * g
                    if d_weight is not None:
                        d_weight[book] += error.t() @ (h * g).to(h.dtype)
                    if d_bias is not None:
                        d_bias[book] += (error * g).sum(0)
        kinds = (context.hidden_dtype, weight.dtype, None if bias is None else bias.dtype)
        grads = zip((d_hidden, d_weight, d_bias), kinds, strict=True)
        return *(x if x is None else x.to(kind) for x, kind in grads), None, None, None


def books(vocab: tuple[int, ...]) -> list[slice]:
    """Where the weights of each book are."""
    return [slice(*ends) for ends in pairwise([0, *accumulate(vocab)])]


def chunks(hidden: Tensor, vocab_size: int) -> Iterator[slice]:
    """Slices of the rows of hidden [R, D]."""
    step = max(1, CHUNK.get(hidden.device.type, CHUNK["cuda"]) // vocab_size)
    return (slice(first, first + step) for first in range(0, len(hidden), step))


def nats_of(logits: Tensor, codes: Tensor) -> Tensor:
    """[R, V], [R] -> [R] in at least fp32."""
    exact, codes = torch.promote_types(logits.dtype, torch.float32), codes[:, None]
    step = max(1, PART // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    parts = zip(logits.split(step), codes.split(step), strict=True)
    return -torch.cat([x.log_softmax(-1, dtype=exact).gather(1, c) for x, c in parts])[:, 0]
