"""The alternatives to SDPA compute the same attention where they can run, and say where they cannot."""

from __future__ import annotations

import pytest
import torch

from pointillist.models.attention import planned
from tests.toys import toys

PLANS = {"triangle": toys()["token"].plan, "par": toys()["par"].plan, "randar": toys()["randar"].plan}
DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def tensors(length: int, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = (4, 2, 2)  # grouped queries
    return [torch.randn(2, h, length, 16, generator=generator).to(device) for h in heads]


def plainly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask.to(q.device), float("-inf"))
    return scores.softmax(-1) @ v


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_every_backend_computes_softmax_attention_under_the_plans_mask(name, device):
    plan = PLANS[name]
    q, k, v = tensors(plan.length, device)
    backends = ["sdpa", "matmul", "flex"] + (["xformers"] if device.type == "cuda" else [])
    for backend in backends:
        difference = planned(plan, backend, device)(q, k, v) - plainly(q, k, v, plan.mask)
        assert difference.abs().max() < 1e-5, backend
    assert (plainly(q, k, v, plan.mask.T) - plainly(q, k, v, plan.mask)).abs().max() > 0.1, "the control"


def test_backends_that_cannot_run_on_cpu_say_so():
    plan, cpu = PLANS["triangle"], torch.device("cpu")
    with pytest.raises(ValueError, match="xformers needs an NVIDIA GPU.*use attention=sdpa"):
        planned(plan, "xformers", cpu)
    with pytest.raises(ValueError, match="no backward pass on CPU"):
        planned(plan, "flex", cpu)
    with pytest.raises(ValueError, match="choose one of sdpa, matmul, flex, xformers"):
        planned(plan, "flash", cpu)
