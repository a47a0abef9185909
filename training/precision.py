"""Of which type weights are and products are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from pointillist.models.linear import is_worth_it, pack
from pointillist.models.processor import attends_in_bf16

HALF, MIXED = "fp16_autocast", "mixed"
WEIGHTS = {"bf16": torch.bfloat16, "fp64": torch.float64}  # float32 otherwise


def cast(network: Any, precision: str, device: torch.device, rows: int, compiled: bool = False) -> None:
    """Bring a frozen generator to a device and to a request's precision; on a CPU its matrices are packed, where that
    is faster for passes of so many rows. Raises ValueError for mixed on a GPU, and for compiled passes of units that
    make none through a cache."""
    if compiled and getattr(network, "any_subset", False):
        raise ValueError(f"unit={network.unit.name} reads the whole image in every pass; leave compile=false")
    if precision == MIXED and device.type != "cpu":
        raise ValueError(f"precision=mixed packs matrices for a CPU, the device is {device.type}; use bf16")
    network.cast(WEIGHTS.get(precision, torch.float32))
    network.to(device)
    if precision == MIXED:
        pack(network, torch.bfloat16, network.transformer if compiled else None)
        network.transformer.cache_dtype = torch.bfloat16 if attends_in_bf16() else None
    elif precision == "fp32" and device.type == "cpu" and is_worth_it(rows):
        pack(network, torch.float32, network.transformer if compiled else None)
    if compiled:
        network.transformer.compile_passes()


def cast_decoder(tokenizer: Any, precision: str) -> None:
    """Bring a frozen tokenizer's decoder to a request's decoder_precision, channels last. What it decodes is made in
    float32, and its images are float32 again. Raises ValueError where there is no such network."""
    if precision == "fp32":
        return
    if not isinstance(getattr(tokenizer, "decoder", None), torch.nn.Module):
        name = type(tokenizer).__module__.rpartition(".")[2]
        raise ValueError(f"tokenizer={name} has no decoding network to turn to {precision}; use decoder_precision=fp32")
    tokenizer.decoder.to(WEIGHTS[precision], memory_format=torch.channels_last)


def products(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which codes are drawn and decoded: float16 autocast where it is asked for."""
    return torch.autocast(device.type, torch.float16) if precision == HALF else nullcontext()


def decoded_in(precision: str, decoder_precision: str = "fp32") -> str:
    """How images of a request's precisions were decoded, for a protocol card."""
    if precision == HALF:
        return "float16 autocast"
    return "bfloat16" if decoder_precision == "bf16" else "float32, TF32 off"


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
