"""How fast training is: tokens and floating-point operations a second, and the share of what the machine makes at most.

The operations are those of the mathematics (MFU; Chowdhery et al., arXiv 2204.02311, appendix B): what the backward
pass computes again, to save memory, does not count.
"""

from __future__ import annotations

import time
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

# TFLOP/s of dense products as NVIDIA states them, by the word in its name that tells a GPU: (bf16, fp32 as TF32).
GPUS = {"H200": (989, 495), "H100": (989, 495), "A100": (312, 156), "L40S": (362, 183), "L4": (121, 60)}

CLOCK = ("seconds", "tokens_per_second", "tflops", "peak_share")  # fields of log.jsonl that differ from run to run


class Speed:
    """Rates of the steps since it was last asked."""

    def __init__(
        self, model: nn.Module, example: dict[str, Tensor], batch: int, precision: str, step: int, seconds: float
    ) -> None:
        """`example` is one image's loss arguments; `step` steps have taken `seconds`."""
        device = next(model.parameters()).device
        self.flops, self.peak = batch * image_flops(model, example), peak_flops(device, precision)
        self.tokens, self.step, self.seconds = batch * model.spec.length, step, seconds

    def until(self, step: int, seconds: float) -> dict[str, float]:
        """For log.jsonl: tokens_per_second, tflops (1e12 operations a second) and peak_share."""
        rate = (step - self.step) / (seconds - self.seconds)
        self.step, self.seconds = step, seconds
        share = self.flops * rate / self.peak
        return {
            "tokens_per_second": round(self.tokens * rate, 1),
            "tflops": round(self.flops * rate / 1e12, 4),
            "peak_share": round(share, 4),
        }

    def words(self, rates: dict[str, float]) -> dict[str, str]:
        """For the progress bar."""
        tera = rates["tflops"]
        return {"tokens/s": f"{rates['tokens_per_second']:.0f}", "TFLOP/s": f"{tera:.3g} ({rates['peak_share']:.0%})"}


def image_flops(model: nn.Module, example: dict[str, Any]) -> int:
    """Of one image's loss, forward and backward: the backward pass counts for twice the forward one at most."""
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten  # torch does not count attention on CPU: two products forward, four backward
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, **__: 4 * prod(q) * k[2],
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda _, q, k, *__, **___: 8 * prod(q) * k[2],
    }
    was_training = model.training
    model.eval()  # without draws and running averages
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as forward:
        loss = model.loss(**example)["loss"]
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as backward:
        loss.backward()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return forward.get_total_flops() + min(backward.get_total_flops(), 2 * forward.get_total_flops())


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of products in bf16 or fp32: a known GPU's as published, of others the best of some of 2048 rows."""
    if device.type == "cuda":
        words = torch.cuda.get_device_name(device).replace("-", " ").split()
        known = [tera for gpu, tera in GPUS.items() if gpu in words]
        if known:
            return known[0][precision == "fp32"] * 1e12
    x = torch.randn(2048, 2048).to(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * 2048**3 / min(_seconds(x) for _ in range(4))


def _seconds(x: Tensor) -> float:
    begin = time.perf_counter()
    float((x @ x)[0, 0])  # which waits for a GPU
    return time.perf_counter() - begin
