"""Packed products: the same numbers, or bfloat16's, from weights that lie otherwise."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from pointillist.models import processor
from pointillist.models.linear import Linear, pack
from pointillist.models.processor import ROWS
from pointillist.sampling import ancestral, jacobi
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training import precision
from pointillist.training.precision import cast
from tests.toys import toy, toys

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows", [(1,), (2,), (3, 1), (4,), (2, 5), (40,)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_weight(rows, bias):
    torch.manual_seed(0)
    layer, x = Linear(48, 80, bias=bias), torch.randn(*rows, 48)
    expected, halves = (
        layer(x),
        F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16() if bias else None),
    )
    exact, half = copy.deepcopy(layer), copy.deepcopy(layer)
    exact.pack(torch.float32)
    half.pack(torch.bfloat16)
    assert exact.weight is None and list(exact.parameters()) == ([exact.bias] if bias else [])
    assert exact(x).shape == half(x).shape == (*rows, 80) and half(x).dtype == torch.float32
    torch.testing.assert_close(exact(x), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(half(x), halves.float(), rtol=0, atol=2e-2)
    assert (half(x) - expected).abs().max() > 1e-4, "the control: bfloat16 is another number"
    other = torch.randn(80)
    torch.testing.assert_close(exact.inner(x, other), F.linear(x, layer.weight, other), rtol=0, atol=2e-6)


def test_a_row_is_the_same_alone_and_among_others():
    """Up to rounding; fewer than four rows are filled up, and what fills them is cut off."""
    layer, x = Linear(32, 16), torch.randn(2 * ROWS, 32)
    layer.pack(torch.float32)
    torch.testing.assert_close(torch.stack([layer(row) for row in x]), layer(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", toys())
def test_a_packed_generator_draws_the_same_images(name):
    plain = toys()[name].float().eval().requires_grad_(False)
    packed, images = copy.deepcopy(plain), torch.arange(3)
    cast(packed, "fp32", CPU, rows=ROWS)
    codes = [_drawn(network, ancestral, images) for network in (plain, packed)]
    assert sum(p.numel() for p in packed.parameters()) < sum(p.numel() for p in plain.parameters())
    torch.testing.assert_close(codes[1].double(), codes[0].double(), rtol=0, atol=1e-4)


def test_mixed_keeps_what_is_no_matrix_in_fp32_and_windows_are_those_of_single_passes(monkeypatch):
    monkeypatch.setattr(precision, "attends_in_bf16", lambda: False)
    packed, images = toy("token").float().eval().requires_grad_(False), torch.arange(4)
    cast(packed, "mixed", CPU, rows=1)
    assert {p.dtype for p in packed.parameters()} == {torch.float32} == {packed.new_caches(1)[0].k.dtype}
    assert torch.equal(_drawn(packed, ancestral, images), _drawn(packed, jacobi, images))


@pytest.mark.parametrize("name", ["token", "par", "scale", "masked", "randar", "flow"])
def test_mixed_attends_in_bfloat16_where_the_processor_is_made_for_it(name, monkeypatch):
    """Keys and values alone: laws stay within bfloat16's rounding of those of the plain network."""
    plain = toy(name).float().eval().requires_grad_(False)
    monkeypatch.setattr(precision, "attends_in_bf16", lambda: True)
    mixed = copy.deepcopy(plain)
    cast(mixed, "mixed", CPU, rows=2)
    assert {cache.k.dtype for cache in mixed.new_caches(1)} <= {torch.bfloat16}
    cond, images = torch.tensor([0, 1]), torch.arange(2)
    laws = []
    for network in (plain, mixed):
        state = network.start(cond, images, Noise(0))
        dist = network.query(state, network.groups(state)[0][:, None])
        laws.append(dist.logits if hasattr(dist, "logits") else dist.sample(Noise(0), images, state.slots).float())
    assert 0 < (laws[0] - laws[1]).square().mean().sqrt() < 0.03 * laws[0].std()


def test_packing_is_for_cpus_and_two_dtypes():
    with pytest.raises(ValueError, match=r"as float32 or bfloat16, got cpu and torch.float64"):
        pack(Linear(4, 4), torch.float64)
    with pytest.raises(ValueError, match="precision=mixed packs matrices for a CPU, the device is cuda; use bf16"):
        cast(toy("token"), "mixed", torch.device("cuda"), rows=8)


def test_two_rows_are_packed_where_mkl_is_not_at_home(monkeypatch):
    for intel in (True, False):
        monkeypatch.setattr(processor, "is_intel", lambda intel=intel: intel)
        network = toy("token").float().eval()
        cast(network, "fp32", CPU, rows=2)
        assert (network.head.weight is None) == (not intel)
        cast(network, "fp32", CPU, rows=ROWS)
        assert network.head.weight is None


def _drawn(network, sampler, images):
    law = target(network, 2.0)
    return sampler.sample(law, images % 2, Noise(0), images, Trace(), sampler.Options())
