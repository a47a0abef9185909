"""Compiled passes: the same codes from few graphs. The graphs are captured and run as they are, without a compiler."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from pointillist.models.linear import Linear, pack
from pointillist.sampling import ancestral, jacobi
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.precision import cast
from tests.toys import toy

IMAGES = torch.arange(3)


def drawn(network, sampler, images=IMAGES):
    return sampler.sample(target(network, 2.0), images % 2, Noise(0), images, Trace(), sampler.Options())


def compiled(name: str, fixed: bool):
    torch._dynamo.reset()
    network, counter = copy.deepcopy(toy(name)), CompileCounter()
    network.transformer.compile_passes(counter, fixed)
    return network, counter


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("name", ["token", "par", "randar", "scale"])
def test_compiled_passes_draw_the_same_codes_from_few_graphs(name, fixed):
    network, counter = compiled(name, fixed)
    assert torch.equal(drawn(network, ancestral), drawn(toy(name), ancestral))
    widths = set(toy(name).plan.starts.diff().tolist())
    most = 4 * (len(widths) + 1) if fixed else 8
    assert 0 < counter.frame_count <= most, "fixed: a graph for each width and quarter of the sequence"
    graphs, seconds = counter.frame_count, network.transformer.compiling
    assert seconds > 0
    assert torch.equal(drawn(network, ancestral), drawn(toy(name), ancestral))
    assert counter.frame_count == graphs, "the next batch takes the same graphs"
    assert network.transformer.compiling == seconds


def test_units_without_a_cache_are_refused():
    with pytest.raises(ValueError, match="unit=masked reads the whole image in every pass; leave compile=false"):
        cast(copy.deepcopy(toy("masked")), "fp64", torch.device("cpu"), 2, compiled=True)


@pytest.mark.parametrize("fixed", [True, False])
def test_windows_are_compiled_too(fixed):
    network, counter = compiled("token", fixed)
    assert torch.equal(drawn(network, jacobi), drawn(toy("token"), jacobi)) and counter.frame_count


def test_caches_of_the_batch_before_are_emptied_and_keep_their_place():
    network, _ = compiled("token", fixed=True)
    drawn(network, ancestral)
    (caches,) = network.transformer.kept.values()
    with torch.inference_mode():
        caches[0].k.fill_(float("nan"))
    assert torch.equal(drawn(network, ancestral), drawn(toy("token"), ancestral))
    (again,) = network.transformer.kept.values()
    assert again[0].k is caches[0].k


def test_mixed_passes_leave_packing_to_the_compiler():
    """Of the transformer: the head is outside of the graph. The laws are those of packed matrices, to rounding."""
    torch._dynamo.reset()
    packed, open_ones = (copy.deepcopy(toy("token")).float() for _ in range(2))
    cast(packed, "mixed", torch.device("cpu"), rows=2)
    pack(open_ones, torch.bfloat16, open_ones.transformer)
    open_ones.transformer.cache_dtype = packed.transformer.cache_dtype
    open_ones.transformer.compile_passes("eager")
    inner = [m for m in open_ones.transformer.modules() if isinstance(m, Linear)]
    assert {m.weight.dtype for m in inner} == {torch.bfloat16} and open_ones.head.weight is None
    laws = []
    for network in (packed, open_ones):
        state = network.start(torch.tensor([0, 1]), torch.arange(2), Noise(0))
        with torch.inference_mode():
            laws.append(network.query(state, network.groups(state)[0][:, None]).logits)
    torch.testing.assert_close(*laws, rtol=0, atol=0.03)
