"""Schedules: numbers along the codes, and the laws that follow them."""

from __future__ import annotations

import math

import pytest
import torch

from pointillist.models.dist import Cut, warp
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.schedules import Schedule
from tests.toys import toy

SHARE = torch.linspace(0, 1, 5)[None]
STEPS = torch.tensor([[0.0, 0.0, 0.5, 0.5, 1.0]])


def values(words: str) -> list[float]:
    return Schedule.parse("guidance", words, 0).at(SHARE, STEPS)[0].tolist()


def test_published_schedules_in_the_house_convention():
    """RandAR's linear growth, RAR's power-cosine, VAR's growth by scale (w -> 1 + w); power 0 is constant."""
    assert values("3") == [3] * 5
    assert values("1..4") == [1, 1.75, 2.5, 3.25, 4]
    rar = [1 + 15.5 * (1 - math.cos(math.pi * r**2.5)) / 2 for r in (0, 0.25, 0.5, 0.75, 1)]
    assert values("1..16.5:cosine:2.5") == pytest.approx(rar)
    assert values("1..16.5:cosine") != pytest.approx(rar), "the control: another power"
    assert values("1..2.5:steps") == [1, 1, 1.75, 1.75, 2.5]
    assert values("1..4:cosine:0") == pytest.approx([4] * 5)
    assert values("2..1") == [2, 1.75, 1.5, 1.25, 1]


@pytest.mark.parametrize("words", ["", "x", "1..", "..2", "1..2:wavy", "1..2:linear:x", "1..2:linear:1:1", "2:linear"])
def test_other_texts_are_refused_with_the_grammar(words):
    with pytest.raises(ValueError, match=r"temperature must be NUMBER, FROM\.\.TO"):
        Schedule.parse("temperature", words, 0)


def test_each_group_of_a_window_has_its_own_cut():
    logits = torch.randn(2, 3, 1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    numbers = {
        "temperature": torch.tensor([[1.0, 0.5, 0.0], [2.0, 1.0, 1.0]]).double(),
        "top_k": torch.tensor([[3.0, 0.0, 5.0], [1.0, 12.0, 2.0]]).double(),
        "top_p": torch.tensor([[1.0, 0.6, 0.9], [0.5, 1.0, 0.9]]).double(),
        "min_p": torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.0, 0.5]]).double(),
    }
    together = warp(logits, Cut(**numbers))
    for b in range(2):
        for i in range(3):
            alone = {k: float(v[b, i]) for k, v in numbers.items()} | {"top_k": int(numbers["top_k"][b, i])}
            assert torch.equal(together[b, i], warp(logits[b, i], Cut(**alone))), (b, i)
    assert not torch.equal(together[0, 0], together[0, 1])


def test_min_p_keeps_a_share_of_the_greatest():
    law = torch.tensor([0.5, 0.3, 0.12, 0.05, 0.03]).log()
    assert warp(law, Cut(min_p=0.2)).isfinite().tolist() == [True, True, True, False, False]
    sharp = warp(law, Cut(temperature=0.5, min_p=0.2))
    assert sharp.isfinite().tolist() == [True, True, False, False, False], "judged after the temperature"


@pytest.mark.parametrize("name", ["token", "par", "scale"])
def test_a_slots_law_does_not_depend_on_how_it_is_reached(name):
    """All numbers with schedules: the law of a group is the same alone and as the last of a window."""
    model = toy(name)
    codes = torch.randint(11, (2, model.plan.num_codes))
    law = target(model, "1..4:cosine:2", "1.2..0.7", "9..3", "0.99..0.7:steps", "0..0.1", (0.2, 0.9))
    constant = target(model, 2, 0.9, 6, 0.9, 0.05)
    found = {}
    for kind, wanted in (("schedules", law), ("constants", constant)):
        for before in (0, 2):
            state = wanted.start(torch.tensor([0, 3]), torch.arange(2), Noise(0))
            groups = [g for g in wanted.groups(state)[:3]]
            for group in groups[:before]:
                wanted.query(state, group[:, None])
                wanted.commit(state, codes.gather(1, group)[:, None], keep=1)
            most = max(g.shape[1] for g in groups[before:])
            window = torch.stack(
                [torch.nn.functional.pad(g, (0, most - g.shape[1]), value=-1) for g in groups[before:]], 1
            )
            real = codes[torch.arange(2)[:, None, None], window.clamp_min(0)]
            dist = wanted.query(state, window, real[:, :-1] if before == 0 else None)
            found[kind, before] = dist.logits[:, -1, : groups[-1].shape[1]].softmax(-1)
    for kind in ("schedules", "constants"):
        assert (found[kind, 0] - found[kind, 2]).abs().max() < 1e-10
    assert (found["schedules", 0] - found["constants", 0]).abs().max() > 1e-3
