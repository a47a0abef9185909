"""The Inception network: torch-fidelity's own numbers, the layout of sFID, independence of the batch."""

import json

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pointillist.evaluation.frechet import Statistics, frechet
from pointillist.evaluation.networks.inception import LAYERS, open_network
from pointillist.training.precision import full_float32
from tests.random_inception import pictures

CPU = torch.device("cpu")
ROUNDING = 2e-4  # of the largest feature; on these small noisy images float32 itself is 3e-5 away from float64


@pytest.fixture(scope="module")
def path(inception):
    return inception


@pytest.fixture(scope="module")
def network(path):
    return open_network(str(path), CPU)


@pytest.fixture(scope="module")
def images():
    noise = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return torch.cat([pictures(3, 48, seed=5), noise])


@pytest.fixture(scope="module")
def ours(network, images):
    return network(images, list(LAYERS))


@pytest.fixture(scope="module")
def theirs(path, images):
    """torch-fidelity's extractor as it comes, with a hook on the block that sFID reads."""
    network = FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased", "logits"], feature_extractor_weights_path=path
    )
    found = {}
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: found.update(block=output.clone()))
    with torch.no_grad():
        pool, logits, biased = network(images)
    return {"pool": pool, "logits": logits, "biased": biased, "block": found["block"]}


def apart(a, b):
    return float((a - b).abs().max() / b.abs().max())


def test_features_are_those_of_torch_fidelity(ours, theirs):
    assert {k: tuple(v.shape) for k, v in ours.items()} == {k: (5, width) for k, width in LAYERS.items()}
    assert all(v.dtype == torch.float32 and v.device == CPU for v in ours.values())
    for layer in ("pool", "logits"):
        assert apart(ours[layer], theirs[layer]) < ROUNDING
    assert apart(ours["logits"], theirs["biased"]) > 0.01, "the control: ADM's logits have no bias"
    assert theirs["pool"].std(0).mean() > 0.05, "the random network does not tell pictures apart"


def test_spatial_features_lie_as_tensorflow_lays_them(ours, theirs):
    block = theirs["block"]  # [b, 192, 17, 17]
    got = ours["spatial"].view(-1, 17, 17, 7)
    for row, column, channel in ((0, 0, 0), (3, 11, 6), (16, 16, 2)):
        torch.testing.assert_close(got[:, row, column, channel], block[:, channel, row, column], rtol=1e-3, atol=1e-3)
    assert apart(ours["spatial"], block[:, :7].permute(0, 2, 3, 1).flatten(1)) < ROUNDING
    assert apart(ours["spatial"], block[:, :7].flatten(1)) > 0.1, "the control: NCHW order is another vector"


def test_a_row_does_not_depend_on_the_batch_it_is_in(network, images, ours):
    parts = [network(part, list(LAYERS)) for part in images.split([1, 4])]
    for layer in LAYERS:
        assert apart(torch.cat([part[layer] for part in parts]), ours[layer]) < 1e-5


def test_rounding_otherwise_moves_no_digit_of_a_distance(path, network):
    """BatchNorm is folded and channels lie last; two sets of pictures, half the features of either order of sums."""
    sets = [pictures(12, 40, seed) for seed in (1, 2)]
    published = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=path)
    with torch.no_grad():
        theirs = [Statistics.of(published(images)[0]).gaussian for images in sets]
    ours = [Statistics.of(network(images, ["pool"])["pool"]).gaussian for images in sets]
    distance = frechet(*theirs).distance
    assert frechet(*ours).distance == pytest.approx(distance, rel=1e-5)
    assert frechet(theirs[0], ours[1]).distance == pytest.approx(distance, rel=1e-5)
    assert frechet(theirs[0], ours[0]).distance < 1e-6 * distance


@pytest.mark.parametrize("layers", [["spatial"], ["pool"], ["logits", "spatial"]])
def test_asking_for_less_computes_less_and_the_same(network, images, ours, layers):
    ran = []
    last = {"spatial": "Mixed_6d", "pool": "Mixed_7c", "logits": "Mixed_7c"}[layers[0]]
    hook = network_of(network).Mixed_7c.register_forward_hook(lambda *a: ran.append("Mixed_7c"))
    got = network(images[:2], layers)
    hook.remove()
    assert set(got) == set(layers) and ("Mixed_7c" in ran) == (last == "Mixed_7c")
    assert all(apart(got[layer], ours[layer][:2]) < 1e-5 for layer in layers)


def network_of(network):
    return next(c.cell_contents for c in network.forward.__closure__ if hasattr(c.cell_contents, "Mixed_7c"))


def test_only_uint8_squares_are_read(network, images):
    for bad in (images.float(), images[:, :1], images[..., :40], images[0], images.permute(0, 2, 3, 1)):
        with pytest.raises(ValueError, match=r"uint8 images \[b, 3, S, S\], got"):
            network(bad, ["pool"])
    with pytest.raises(AssertionError, match="has layers pool, spatial, logits, not 2048"):
        network(images, ["2048"])


def test_the_card_says_that_these_weights_are_not_the_published_ones(network, path):
    card = json.loads(json.dumps(network.card))
    assert card["name"] == "inception" and card["verified"] is False and len(card["sha256"]) == 64
    assert "TensorFlow" in card["resize"] and "TF32" in card["precision"]
    assert not any(p.requires_grad for p in network_of(network).parameters())


def test_other_weights_are_refused_in_one_line(path, tmp_path):
    state = torch.load(path, weights_only=True)
    for key in ("fc.weight", "Mixed_6d.branch1x1.conv.weight"):
        state["other." + key] = state.pop(key)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"lacks Mixed_6d.branch1x1.conv.weight, fc.weight; it has besides other.fc"):
        open_network(str(tmp_path / "other.pth"), CPU)


def test_full_float32_is_put_back_even_after_an_error():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(KeyError), full_float32():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee" == torch.backends.mkldnn.matmul.fp32_precision
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium" and torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
