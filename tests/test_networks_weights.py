"""Weights files: where they are found, and what is said of those that cannot be used."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pointillist.configs.files import file_hash
from pointillist.evaluation.networks.weights import fill, find_weights, load_state

ENV = "POINTILLIST_INCEPTION_WEIGHTS"
STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(ENV, raising=False)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "torch" / "hub" / "checkpoints"


def find(given=""):
    return find_weights(given, ENV, ("first.pth", "second.pth"), "Inception", "https://example.org/first.pth")


def touch(path):
    path.write_bytes(b"x")
    return path


def test_the_option_wins_over_the_environment_and_that_over_the_cache(empty_cache, tmp_path, monkeypatch):
    second = touch(empty_cache / "second.pth")
    assert find() == second
    first = touch(empty_cache / "first.pth")
    assert find() == first
    monkeypatch.setenv(ENV, str(touch(tmp_path / "environment.pth")))
    assert find() == tmp_path / "environment.pth"
    assert find(str(touch(tmp_path / "given.pth"))) == tmp_path / "given.pth"


def test_the_cache_is_where_torch_hub_has_it(monkeypatch):
    for home in (os.environ["TORCH_HOME"], None):
        monkeypatch.setenv("TORCH_HOME", home) if home else monkeypatch.delenv("TORCH_HOME")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        with pytest.raises(FileNotFoundError) as error:
            find_weights("", ENV, ("no such name.pth",), "Inception", "URL")
        assert str(Path(torch.hub.get_dir()) / "checkpoints") in str(error.value)


def test_what_is_missing_is_one_line_that_says_what_to_do(empty_cache, monkeypatch):
    with pytest.raises(FileNotFoundError) as error:
        find()
    for part in ("https://example.org/first.pth", str(empty_cache), "first.pth", "inception_weights=FILE", ENV):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    touch(empty_cache / "first.pth")  # a file that was asked for by name is never replaced by another
    with pytest.raises(FileNotFoundError, match="inception_weights=nowhere.pth: no such file"):
        find("nowhere.pth")
    monkeypatch.setenv(ENV, "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=f"{ENV}=nowhere.pth: no such file.*https"):
        find()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_every_format_gives_the_same_tensors(kind, tmp_path):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    save_file(STATE, path) if kind == "safetensors" else torch.save(
        STATE, path, _use_new_zipfile_serialization=kind == "zip"
    )
    state = load_state(path)
    assert set(state) == set(STATE) and all(torch.equal(state[k], STATE[k]) for k in STATE)
    assert file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_called_so(kind, share, tmp_path):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    state = {"a": torch.randn(50, 50)}
    save_file(state, path) if kind == "safetensors" else torch.save(
        state, path, _use_new_zipfile_serialization=kind == "zip"
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match="damaged or was cut off") as error:
        load_state(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


class Code:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(zipped, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "trap"))
    torch.save({"a": Code()}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds Python objects"):
        load_state(tmp_path / "a.pth")
    assert not (tmp_path / "trap").exists()
    torch.load(tmp_path / "a.pth", weights_only=False)  # the control: it would have
    assert (tmp_path / "trap").exists()


def test_other_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "a.pth"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(ValueError, match="no weights file"):
        load_state(path)
    torch.save({"state_dict": STATE, "epoch": 3}, path)
    with pytest.raises(ValueError, match="holds a dict of state_dict, epoch, not tensors by name"):
        load_state(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list, not"):
        load_state(path)
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))
    with pytest.raises(ValueError, match="TorchScript archive"):
        load_state(path)


def test_filling_is_strict_and_casts(tmp_path):
    layer = nn.Linear(3, 2)
    fill(layer, {k: v.half() for k, v in STATE.items()}, tmp_path)
    assert torch.equal(layer.weight, STATE["weight"]) and layer.weight.dtype == torch.float32
    with pytest.raises(ValueError, match=r"lacks weight; it has besides a, b, c and 1 more$"):
        fill(layer, {k: torch.ones(2) for k in ("bias", *"abcd")}, tmp_path)
    with pytest.raises(ValueError, match=r"another shape weight \[3, 2\]"):
        fill(layer, {"weight": torch.ones(3, 2), "bias": torch.ones(2)}, tmp_path)
    norm = nn.BatchNorm2d(2)
    fill(norm, {k: v + 1 for k, v in norm.state_dict().items() if k != "num_batches_tracked"}, tmp_path)
    assert torch.equal(norm.weight, torch.full((2,), 2.0))
