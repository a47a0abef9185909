"""Of which type weights are and products are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

HALF = "fp16_autocast"
WEIGHTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64, HALF: torch.float32}


def products(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which codes are drawn and decoded: float16 autocast where it is asked for."""
    return torch.autocast(device.type, torch.float16) if precision == HALF else nullcontext()


def decoded_in(precision: str) -> str:
    """How images of a request's precision were decoded, for a protocol card."""
    return "float16 autocast" if precision == HALF else "float32, TF32 off"


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 and no bfloat16 inside float32 products, whatever was allowed before; that is restored at the end."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    kinds = (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
