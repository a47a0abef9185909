"""The Inception Score: published evaluators, how images are divided, sums that merge."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch_fidelity.metric_isc import isc_features_to_metric

from pointillist.evaluation.scores.inception_score import ClassSums, Options, check, score, split_of

GOLDEN = Path(__file__).parent / "golden" / "metrics" / "cases.safetensors"
SHUFFLED = Options(rule="torch_fidelity")


def sums(logits, options):
    split = split_of(options, len(logits))
    return ClassSums.of(logits, split, int(split.max()) + 1)


def measure(logits, options):
    return score(SimpleNamespace(count=len(logits), classes=lambda layer: sums(logits, options)), None, options)["is"]


def draw(count, classes=10, seed=0):
    return 2 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (Options(split_size=100), "adm.inception_score_split100"),
        (Options(), "adm.inception_score_default_split5000"),
        (Options(split_size=50), "tf.isc_shuffle0.mean"),  # 10 splits of 500 in file order
        (SHUFFLED, "tf.isc_shuffle1.mean"),
    ],
)
def test_agrees_with_published_evaluators(options, key):
    golden = load_file(GOLDEN)
    got = measure(golden["logits"], options)
    assert got.value == pytest.approx(float(golden[key]), rel=1e-6)
    spread = golden.get(key.replace("mean", "std")) if key.endswith("mean") else None
    assert spread is None or got.width == pytest.approx(float(spread), rel=1e-6)
    assert (got.width is None) == (options == Options()), "500 images are one split of 5000: there is no width"
    wrong = SHUFFLED if options.rule == "adm" else Options(split_size=50)
    assert abs(measure(golden["logits"], wrong).value / float(golden[key]) - 1) > 1e-3, "the division must matter"


@pytest.mark.parametrize("count", [10, 137, 1003])
def test_agrees_with_torch_fidelity_where_splits_are_uneven(count):
    logits = draw(count)
    expected = isc_features_to_metric(logits)
    got = measure(logits, SHUFFLED)
    assert got.value == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert got.width == pytest.approx(expected["inception_score_std"], rel=1e-9)


def test_a_short_last_split_counts_like_the_others():
    logits = draw(250)
    p = logits.double().softmax(1)
    each = [(s * (s / s.mean(0)).log()).sum(1).mean().exp() for s in p.split(100)]
    assert measure(logits, Options(split_size=100)).value == pytest.approx(float(torch.stack(each).mean()), rel=1e-12)
    assert np.bincount(split_of(Options(split_size=100), 250)).tolist() == [100, 100, 50]


def test_a_file_sorted_by_class_scores_low_unless_it_is_shuffled():
    label = torch.arange(1000) // 100
    logits = draw(1000) + 8 * torch.eye(10)[label]
    shuffled = logits[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    by_file = Options(split_size=100)
    assert measure(logits, by_file).value < 2 < 4 < measure(shuffled, by_file).value
    assert measure(logits, SHUFFLED).value == pytest.approx(measure(shuffled, SHUFFLED).value, rel=0.05)


@pytest.mark.parametrize("options", [Options(split_size=64), SHUFFLED])
def test_sums_do_not_depend_on_batches_or_their_order(options):
    logits, split = draw(500), split_of(options, 500)
    whole = sums(logits, options)
    order = np.random.RandomState(1).permutation(500)
    for size in (1, 7, 499):
        parts = [order[i : i + size] for i in range(0, 500, size)]
        merged = [ClassSums.of(logits[part], split[part], len(whole.count)) for part in parts]
        merged = sum(merged[1:], merged[0])
        assert torch.equal(merged.count, whole.count)
        torch.testing.assert_close(merged.scores, whole.scores, rtol=1e-13, atol=0)


def test_limits():
    certain = 1000 * torch.eye(10).repeat(5, 1)  # p log p of p = 0 is 0
    assert measure(certain, Options()).value == pytest.approx(10, abs=1e-12)
    assert measure(torch.zeros(50, 10), Options()).value == pytest.approx(1, abs=1e-12)
    assert measure(draw(2), Options()).value >= 1


def test_refusals():
    logits = draw(20)
    logits[3, 2], logits[4, 1] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 20 images have NaN or infinite logits"):
        sums(logits, Options())
    with pytest.raises(ValueError, match="10 splits need as many images, got 9"):
        check(SHUFFLED, 9, None)
    with pytest.raises(ValueError, match="split_size=0"):
        check(Options(split_size=0), 9, None)
    check(Options(), 9, None)
