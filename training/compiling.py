"""compile=true: what of a model torch.compile is given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def compiled(model: nn.Module) -> Callable:
    """The model's loss, compiled. Of a transformer each block is: they share one graph, so that it starts four times
    faster than a graph of all of them, and steps are no slower (benchmarks/train_step.py). The weights' names stay."""
    if not hasattr(model, "transformer"):
        return torch.compile(model.loss)
    for block in model.transformer.blocks:
        block.compile()
    return model.loss
