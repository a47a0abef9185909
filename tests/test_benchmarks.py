"""What benchmarks compute rather than measure: operations of a pass, an image's time from single steps, turns."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pointillist import CodeSpec
from pointillist.models.generator import Generator, Options
from pointillist.models.units import token


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts import one another from their folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    yield
    for name in ("measure", "passes", "growth", "growth_figure"):
        sys.modules.pop(name, None)


@pytest.fixture
def network() -> Generator:
    spec = CodeSpec(grids=((4, 4),), vocab=(48,), channels=4)
    return Generator(Options(size="nano"), spec, token.plan(spec, token.Options()), 3).eval().requires_grad_(False)


@pytest.mark.parametrize(("batch", "position", "places"), [(1, 0, 1), (2, 5, 3), (1, 0, 16)])
def test_operations_of_a_pass_are_those_that_torch_counts(network, batch, position, places):
    from passes import Passes, Work

    passes = Passes(network, batch)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        passes.query(position, places)
    counted = counter.get_flop_counts()["Global"]
    work = Work.of(network, 2 * batch, places, position)
    assert work.products == sum(n for op, n in counted.items() if "mm" in str(op))
    assert work.weights == 4 * sum(p.numel() for p in network.parameters() if p.ndim == 2) - embeddings(network)
    assert work.cached == 2 * batch * sum(c.k[0, : position + places].nbytes * 2 for c in network.new_caches(1))


def embeddings(network: Generator) -> int:
    """Bytes of tables, of which a pass reads a few rows."""
    tables = [m for m in network.modules() if isinstance(m, torch.nn.Embedding)]
    return sum(4 * t.weight.numel() for t in tables)


def test_a_pass_at_a_position_leaves_the_others_alone(network):
    """Steps out of order give the laws of their places: a fresh state's, as all codes and keys before are alike."""
    from passes import Passes

    used, fresh = Passes(network, 2), Passes(network, 2)
    with torch.inference_mode():
        first = fresh.query(0, 1).logits
        for position in (9, 3):
            used.step(position)
        assert torch.equal(used.query(0, 1).logits, first)


def test_an_image_from_steps_that_grow_evenly(monkeypatch):
    """Midpoints are exact where a step's seconds grow in proportion to the codes before it; ends would not be."""
    import growth

    steps = []
    monkeypatch.setattr(growth, "timed", lambda call: call() or 5 + 2 * steps[-1])
    passes = SimpleNamespace(step=lambda at: steps.append(at), slots=torch.empty(1, 64, 1))
    assert growth.image_seconds(passes, 4) == pytest.approx(sum(5 + 2 * at for at in range(64)), rel=0.02)
    assert growth.middles(64, 4) == [8, 24, 40, 56]


def test_contenders_take_turns_after_a_warm_up():
    from measure import interleaved, medians, table

    said = []
    seconds = interleaved({name: lambda name=name: said.append(name) for name in "ab"}, rounds=2)
    assert said == list("ababab") and {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}
    assert medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}
    assert table(["x", "y"], [["1", "2"]]) == "| x | y |\n| --- | --- |\n| 1 | 2 |"
