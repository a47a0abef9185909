"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass
class Optimization:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); weight decay only on matrices, not on norms and biases."""

    lr: float = 1e-3  # at its highest
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05  # of matrices and embeddings; norms and biases have none
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup: int = 100  # steps of linear rise
    decay_share: float = 0.2  # wsd: the last share of the steps falls linearly to final_lr
    final_lr: float = 0.0  # as a share of lr
    clip: float = 1.0  # largest gradient norm
    accumulate: int = 1  # parts a batch is computed in
    ema: float = 0.999  # decay of the average of the weights, which is what gets saved, scored and sampled

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.clip > 0 and self.accumulate >= 1 and 0 <= self.ema < 1 and self.warmup >= 0):
            raise ValueError("optimization needs lr > 0, clip > 0, accumulate >= 1, warmup >= 0 and 0 <= ema < 1")


def make_optimizer(model: nn.Module, options: Optimization) -> torch.optim.AdamW:
    """AdamW over two groups: parameters of two or more dimensions decay, the others do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups, betas = [g for g in groups if g["params"]], (options.beta1, options.beta2)
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=betas, fused=True)
    for p in (p for group in groups for p in group["params"]):
        # now: made among the first step's activations they leave gaps, a quarter of a GB for GPT-B
        moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return optimizer


def learning_rate(step: int, steps: int, options: Optimization) -> float:
    """The rate of step 0..steps-1: linear warm-up, then cosine, constant, or constant with a linear end (WSD)."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    share = (step - options.warmup) / max(steps - options.warmup, 1)
    if options.schedule == "cosine":
        level = (1 + math.cos(math.pi * share)) / 2
    elif options.schedule == "wsd":
        level = min(1.0, (1 - share) / max(options.decay_share, 1e-9))
    else:
        level = 1.0
    return options.lr * (options.final_lr + (1 - options.final_lr) * level)
