"""Guards: what is odd about a set of images is named, and what is not is left alone."""

import numpy as np
import pytest
import torch

from pointillist.evaluation.guards import Census, find_warnings, is_sorted
from pointillist.evaluation.report import combined, lines, spread

RNG = np.random.default_rng(0)


def images(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), np.uint8))


def found(pictures, labels=None, reference=None, usual=0.02):
    return find_warnings(Census.of(pictures), Census.of(reference) if reference is not None else None, labels, usual)


def test_ordinary_images_raise_nothing():
    assert found(images(60), RNG.integers(0, 5, 60), images(60, 1)) == {}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.repeat(np.arange(10), 20), True),  # ADM's order of a class-sorted file
        (np.repeat(RNG.permutation(10), 20), True),  # class after class, in any order
        (np.tile(np.repeat(np.arange(10), 10), 2), True),  # twice: the files of two processes one after the other
        (np.tile(np.arange(10), 20), False),  # in turn: every part sees all classes
        (RNG.permutation(np.repeat(np.arange(10), 20)), False),
        (np.zeros(200, int), False),  # one class is no order
        (np.array([0, 1, 2]), False),  # too few to say
        (None, False),
    ],
)
def test_class_sorted(labels, expected):
    assert is_sorted(labels) is expected


def test_classes_that_a_network_predicts_show_the_order_too():
    """Predictions of sorted images are right now and then, of shuffled ones in no order."""
    truth = np.repeat(np.arange(50), 20)
    predicted = np.where(RNG.random(1000) < 0.6, truth, RNG.integers(0, 50, 1000))
    assert is_sorted(predicted) and not is_sorted(RNG.permutation(predicted))


def test_flat_grey_and_repeated_images():
    pictures = images(40)
    pictures[:3] = 7
    pictures[3:12] = pictures[3:12, :1]
    warnings = found(pictures, RNG.permutation(40))
    assert warnings["constant_images"] == "3 of 40 samples are one flat colour"
    assert warnings["grey_images"].startswith("30% of the samples are grey, 2% usually")
    assert warnings["duplicates"].startswith("2 of 40 samples repeat another one exactly (numbers 0 and 1)")
    assert set(warnings) == {"constant_images", "grey_images", "duplicates"}
    assert "grey_images" not in found(pictures, usual=0.3), "where the reference is as grey, nothing is odd"


def test_duplicates_of_a_class_tell_of_a_seed_that_was_the_same():
    pictures = images(20)
    pictures[10:] = pictures[:10]
    within = found(pictures, np.tile(np.arange(10), 2))["duplicates"]
    assert within.endswith("was the random seed the same for every batch of a class?")
    assert not found(pictures, RNG.permutation(20))["duplicates"].endswith("?")


def test_images_of_the_reference_are_found():
    reference = images(30, 5)
    mixed = torch.cat([images(20), reference[:4]])
    assert found(mixed, reference=reference)["identical_to_reference"].startswith("4 of 24")


def test_the_identity_of_a_set_knows_its_order_and_every_pixel():
    one = images(6)
    other = one.clone()
    other[5, 2, 3, 3] ^= 1
    same, moved = Census.of(one).content, Census.of(one.flip(0)).content
    assert same == Census.join([Census.of(one[:2]), Census.of(one[2:])]).content
    assert len({same, moved, Census.of(other).content}) == 3


def test_seeds_are_told_by_mean_least_and_deviation():
    runs = [{"fid": {"value": v, "width": 0.1, "how": "x"}} for v in (3.0, 2.0, 4.0)]
    entry = combined(runs)["fid"]
    assert entry == {"value": 3.0, "min": 2.0, "std": 1.0, "seeds": [3.0, 2.0, 4.0]}
    assert combined(runs[:1]) == runs[0]
    assert spread(entry) == "  mean of 3 seeds; least 2, standard deviation 1"
    assert spread(runs[0]["fid"]) == "  +- 0.1 (x)" and spread({"value": 1.0}) == ""


def test_a_result_is_told_in_lines():
    result = {
        "scores": {"fid": {"value": 3.94256, "width": 0.02, "how": "standard deviation of 20 bootstrap resamples"}},
        "warnings": {"class_sorted": "sorted"},
        "note": "note",
        "protocol": {"count": 50_000, "label_policy": "balanced"},
        "samples": {"reference": "ref.npz"},
    }
    assert lines(result) == [
        "50,000 images, balanced | against ref.npz",
        "",
        f"{'fid':<34}{'3.9426':>12}  +- 0.02 (standard deviation of 20 bootstrap resamples)",
        "",
        "warning: class_sorted: sorted",
        "note",
    ]
