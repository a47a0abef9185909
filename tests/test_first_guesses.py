"""First guesses: what slots are guessed to hold when they enter a window, and when samplers refuse."""

from __future__ import annotations

import pytest
import torch

from pointillist.models.plan import neighbours
from pointillist.sampling import lantern, speculative
from pointillist.sampling.drafters import jacobi, model
from pointillist.sampling.drafts import padded
from pointillist.sampling.first_guesses import FirstGuesses
from pointillist.sampling.laws import Aided, Inpaint, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.rules import cool, mrs
from pointillist.sampling.trace import Trace
from tests.toys import BOOKS, GRID, PYRAMID, toy

IMAGES, COND = torch.arange(6), torch.arange(6) % 5


def guesses(init: str, name: str = "token") -> tuple[FirstGuesses, torch.Tensor]:
    """First guesses of a toy, whose first six slots (of 4 x 4) hold their own numbers, and its padded groups."""
    made = toy(name)
    groups = padded(made.groups(made.start(COND, IMAGES, Noise(0))))
    first = FirstGuesses(init, made, Noise(0), IMAGES, groups)
    known = groups[:, :6]
    first.remember(known, known % 11)
    return first, groups


def test_neighbours_lie_in_the_same_grid():
    assert neighbours(GRID, "left")[:6].tolist() == [-1, 0, 1, 2, -1, 4]
    assert neighbours(GRID, "above")[3:9].tolist() == [-1, 0, 1, 2, 3, 4]
    assert neighbours(PYRAMID, "left").tolist() == [-1, -1, 1, -1, 3, -1, 5, 6, -1, 8, 9, -1, 11, 12]


@pytest.mark.parametrize(("init", "copied"), [("left", [5, 5]), ("above", [2, 3])])
def test_a_copy_is_the_neighbours_newest_code(init, copied):
    """Slots 6 and 7 are fresh; 6 lies on the right of 5, under 2; 7 on the right of the copy, under 3."""
    first, groups = guesses(init)
    fresh = torch.ones(6, 2, dtype=torch.bool)
    codes, laws = first(groups[:, 6:8], fresh)
    assert codes[:, :, 0].tolist() == [copied] * 6
    assert (laws.argmax(-1) == codes).all() and (laws.amax(-1) == 1).all()


def test_guesses_that_are_not_fresh_are_copied_from_not_copied_over():
    """Slot 6 holds an older guess, 9: slot 7 copies it from the left."""
    first, groups = guesses("left")
    first.remember(groups[:, 6:7], torch.full((6, 1, 1), 9))
    fresh = torch.tensor([[False, True]]).expand(6, -1)
    assert (first(groups[:, 6:8], fresh)[0][:, 1] == 9).all()


def test_without_an_earlier_neighbour_any_code_is_as_likely():
    first, groups = guesses("left")
    codes, laws = first(groups[:, 8:9], torch.ones(6, 1, dtype=torch.bool))  # a row begins
    assert torch.allclose(laws, torch.full_like(laws, 1 / 11)) and len(codes.unique()) > 2
    backwards, order = guesses("left", "randar")
    for image in range(6):
        slot = int(order[image, 6, 0])
        beside = int(neighbours(GRID, "left")[slot])
        law = backwards(order[:, 6:7], torch.ones(6, 1, dtype=torch.bool))[1][image, 0, 0]
        assert (law.max() == 1) == (beside >= 0 and beside in order[image, :6, 0].tolist())


# -------------------------------------------------------------------------------------------------- what fits what


def options(rule=None, drafter=None, **numbers) -> speculative.Options:
    return speculative.Options(rule=rule or mrs.Options(), drafter=drafter or jacobi.Options(), **numbers)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("token", options(cool.Options(), ways=2), "rule=cool tries one guess"),
        ("line", options(ways=2), "one code at a time"),
        ("cell, chained", options(), "chained books"),
        ("books", lantern.Options(), "needs one codebook"),
        ("token", options(drafter=model.Options()), "name it: draft=RUN"),
    ],
)
def test_what_does_not_fit_is_refused(name, how, message):

    made = {
        "token": lambda: toy("token"),
        "line": lambda: toy("line"),
        "books": lambda: toy("token", BOOKS),
        "cell, chained": lambda: toy("cell", BOOKS, model={"books": "chain"}),
    }[name]()
    with pytest.raises(ValueError, match=message):
        speculative.check(made, how)


def test_a_draft_in_another_order_is_refused():
    law = Aided(toy("token"), toy("token", order="snake"))
    with pytest.raises(ValueError, match="in another order"):
        speculative.check(law, options(drafter=model.Options()))


def test_relaxed_rules_on_several_books_count_every_code():

    made, trace = toy("token", BOOKS), Trace()
    how = options(cool.Options(delta=3))
    speculative.check(made, how)
    speculative.sample(made, COND, Noise(1), IMAGES, trace, how)
    spent = trace.summary()["by_slot"]
    assert len(spent["variation"]) == 16 and sum(spent["variation"]) > 0
    assert all(v <= n for v, n in zip(spent["variation"], spent["verified"], strict=True))


def test_a_draft_of_the_same_request_is_always_right_about_given_codes():
    """A mask over the lower half: the draft that is the target itself needs one pass for a whole window."""
    made = toy("token")
    codes, known = torch.randint(11, (1, 16)), torch.arange(16)[None] < 8
    asked = Inpaint(target(made, 2), codes, known)
    trace = Trace()
    drawn = speculative.sample(
        Aided(asked, asked), COND, Noise(1), IMAGES, trace, options(drafter=model.Options(), window=15)
    )
    assert (drawn[:, :8] == codes[:, :8]).all() and trace.summary()["nfe_per_image"] == 1
    other = speculative.sample(
        Aided(asked, target(made, 2)), COND, Noise(1), IMAGES, trace, options(drafter=model.Options(), window=15)
    )
    assert (other[:, :8] == codes[:, :8]).all() and trace.summary()["nfe_per_image"] > 1, "the control"
