"""Jacobi and draft-model decoding against ancestral decoding: the same codes for the same seed, image by image."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor

from pointillist.models.blocks import Cache
from pointillist.sampling import ancestral, drafts, jacobi, speculative
from pointillist.sampling.drafters import jacobi as jacobi_drafts
from pointillist.sampling.drafters import model
from pointillist.sampling.laws import Aided, Law, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.rules import exact, mrs
from pointillist.sampling.trace import Trace
from tests.toys import numbers, toys

TOYS = {name: toy for name, toy in toys().items() if jacobi.fits(toy)}
EACH = ceil(1000 / len(TOYS))  # a thousand images in all
SINGLE = [name for name, toy in TOYS.items() if len(toy.spec.vocab) == 1 and max(map(len, toy.plan.groups)) == 1]
IMAGES = torch.arange(EACH) * 3 + 1


def drawn(module: Any, law: Any, options: Any, images: Tensor = IMAGES) -> tuple[Tensor, Trace]:
    trace = Trace()
    return module.sample(law, images % 5, Noise(11), images, trace, options), trace


@cache
def law_of(name: str, temperature: float = 1.0) -> Any:
    """Half of the toys are guided and cut; all are so flat that images differ."""
    if list(TOYS).index(name) % 2:
        return target(TOYS[name], temperature=2 * temperature)
    return target(TOYS[name], guidance="1..2.5", temperature=2 * temperature, top_p=0.95)


@cache
def reference(name: str, temperature: float = 1.0) -> Tensor:
    return drawn(ancestral, law_of(name, temperature), ancestral.Options())[0]


def same(name: str, options: Any, law: Any = None, rows: Tensor | None = None, batch: int = EACH) -> bool:
    """Are images `rows`, decoded in batches, those of ancestral decoding? And is no pass wasted?"""
    rows, parts = torch.arange(EACH) if rows is None else rows, []
    for part in rows.split(batch):
        codes, trace = drawn(speculative, law or law_of(name), options, IMAGES[part])
        assert max(trace.nfe) <= trace.steps == len(TOYS[name].plan.groups)
        parts.append(codes)
    return torch.equal(torch.cat(parts), reference(name)[rows])


def another(toy: Any) -> Any:
    """A toy of the same unit with other weights."""
    other = deepcopy(toy)
    torch.manual_seed(9)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 1.0)
    return other


# --------------------------------------------------------------------------------------------------------- pathwise


@pytest.mark.parametrize("name", TOYS)
def test_any_window_and_any_batch_gives_the_images_of_ancestral_decoding(name):
    for window in (1, 16):
        assert same(name, jacobi.Options(window=window)), window
    shuffled = torch.randperm(EACH, generator=torch.Generator().manual_seed(1))
    assert same(name, jacobi.Options(window=5), rows=shuffled)
    assert same(name, jacobi.Options(window=2), rows=shuffled[:20], batch=7)
    assert same(name, jacobi.Options(window=64), rows=shuffled[20:23], batch=1)
    assert len(reference(name).flatten(1).unique(dim=0)) > EACH * 0.8


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("init", ["random", "left", "above", "resample"])
def test_three_ways_and_other_guesses_give_the_same_images(name, init):
    drafter = jacobi_drafts.Options(init=init, coupling="gumbel" if init in ("random", "left") else "maximal")
    assert same(name, jacobi.Options(window=4, ways=3, drafter=drafter))


@pytest.mark.parametrize("name", TOYS)
def test_another_model_drafts_the_same_images(name):
    law = Aided(law_of(name), another(TOYS[name]))
    for ways in (1, 3) if name in SINGLE else (1,):
        options = jacobi.Options(drafter=model.Options(), window=3, ways=ways)
        assert same(name, options, law, torch.arange(EACH // ways)), ways


@pytest.mark.parametrize("name", TOYS)
def test_greedy_jacobi_is_greedy_ancestral(name):
    codes, _ = drawn(speculative, law_of(name, 0.0), jacobi.Options(window=6))
    assert torch.equal(codes, reference(name, 0.0)) and not torch.equal(codes, reference(name))


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("window", [1, 3])
def test_a_draft_that_is_the_target_is_always_right(name, window):
    law, total = law_of(name), len(TOYS[name].plan.groups)
    codes, trace = drawn(speculative, Aided(law, law), jacobi.Options(drafter=model.Options(), window=window))
    assert torch.equal(codes, reference(name))
    assert trace.nfe == {ceil(total / (window + 1)): EACH} and int(trace.rejected.sum()) == 0


@pytest.mark.parametrize("wrong", ["row", "pass"])
def test_control_wrong_noise_keys_are_seen(wrong, monkeypatch):
    """Noise of the batch's row instead of the image, or of the pass instead of the slot alone."""
    race, fixed = Noise.race, drafts.Draws.fixed

    def of_row(noise: Noise, stream: str, logits: Tensor, images: Tensor, slots: Tensor) -> Tensor:
        return race(noise, stream, logits, torch.arange(len(images)), slots)

    def of_pass(draws: drafts.Draws, dist: Any, slots: Tensor) -> Tensor:
        return fixed(draws, dist, slots + 2**32 * draws.number[:, None, None])

    reference("token")
    shuffled = torch.arange(EACH).flip(0)
    where, name, key = {"row": (Noise, "race", of_row), "pass": (drafts.Draws, "fixed", of_pass)}[wrong]
    monkeypatch.setattr(where, name, key)
    assert not same("token", jacobi.Options(window=5), rows=shuffled)


# ------------------------------------------------------------------------------------------------------------ caches


@dataclass
class Checked(Law):
    """Compares every law of every pass with that of a full forward pass without cache; keeps the differences."""

    worst: list[float] = field(default_factory=list)

    def query(self, state: Any, slots: Tensor, draft: Tensor | None = None, tree: Any = None) -> Any:
        dist, m = self.generator.query(state, slots, draft, tree), slots.shape[1]
        guess = state.codes.new_empty(len(slots), 0, slots.shape[2], *state.codes.shape[2:]) if draft is None else draft
        leaves = [m - 1] if tree is None else [node for node in range(1, m) if node not in tree.parents]
        for leaf in leaves:
            way = torch.arange(m) if tree is None else tree.sees[leaf].nonzero()[:, 0]
            self._compare(dist, state, slots, guess, way)
        return dist

    def _compare(self, dist: Any, state: Any, slots: Tensor, guess: Tensor, way: Tensor) -> None:
        toy, rows, codes = self.generator, torch.arange(len(slots))[:, None, None], state.codes.clone()
        codes[rows, slots[:, way[:-1]]] = guess[:, way[1:] - 1]
        hidden = toy.hidden(codes[:, :-1], state.cond, state.order)
        expected = numbers(toy.head.dist(hidden[rows, slots[:, way].clamp_min(0)]), codes[rows, slots[:, way]])
        found = numbers(dist, codes[rows, slots])[:, way]
        self.worst.extend((found - expected)[slots[:, way] >= 0].abs().flatten(1).amax(1).tolist())


def difference(toy: Any, options: Any, guided: bool) -> float:
    checked, draft = Checked(toy), Checked(another(toy))
    law, second = (target(each, guidance=2.0 if guided else 1.0) for each in (checked, draft))
    drawn(speculative, Aided(law, second), options, torch.arange(4))
    assert len(checked.worst) > 10 and (len(draft.worst) > 10) == isinstance(options.drafter, model.Options)
    return max(checked.worst + draft.worst)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", TOYS)
def test_every_law_of_every_pass_is_that_of_a_full_forward_pass(name, guided):
    for drafter, window, ways in ((jacobi_drafts, 5, 1), (model, 2, 1), (jacobi_drafts, 3, 3)):
        if ways == 1 or name in SINGLE:
            options = jacobi.Options(drafter=drafter.Options(), window=window, ways=ways)
            assert difference(TOYS[name], options, guided) < 1e-10, options


def test_control_keys_that_stay_behind_are_seen(monkeypatch):
    seeing = deepcopy(TOYS["token"])
    seeing.layout.mask.fill_(True)  # drafts of earlier passes
    assert difference(seeing, jacobi.Options(window=5), guided=False) > 1e-3
    monkeypatch.setattr(Cache, "move", lambda cache, rows, places: None)  # a tree's keys
    assert difference(TOYS["token"], jacobi.Options(window=3, ways=3), guided=False) > 1e-3


# ------------------------------------------------------------------------------------------------------------- trace


@pytest.mark.parametrize("name", TOYS)
def test_the_trace_adds_up(name):
    groups, first = len(TOYS[name].plan.groups), TOYS[name].plan.groups[0]
    for rule in (exact.Options(), mrs.Options()) if name in SINGLE else (exact.Options(),):
        options = speculative.Options(window=4, rule=rule)
        _, trace = drawn(speculative, law_of(name), options)
        passes = sum(n * images for n, images in trace.nfe.items())
        assert sum(trace.nfe.values()) == EACH and sum(trace.committed.values()) == passes
        assert sum(kept * times for kept, times in trace.committed.items()) == EACH * groups
        assert trace.passes == max(trace.nfe) and max(trace.committed) <= 5 and trace.steps == groups
        verified, rejected = trace.verified, trace.rejected
        assert bool((verified <= EACH).all()) and bool((rejected >= 0).all()) and bool((rejected <= verified).all())
        if not TOYS[name].any_order:
            assert bool((verified[first] == EACH).all()), "the first group is always guessed"
        if name in SINGLE:  # a pass ends with a rejection, with a code nobody guessed, or with the image
            beyond = EACH * groups - int(verified.sum())
            assert 0 <= passes - int(rejected.sum()) - beyond <= EACH
