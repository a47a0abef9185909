"""Files of published checkpoints: where they are found, and what is said of those that cannot be used."""

from __future__ import annotations

import argparse
import os
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pointillist.zoo import llamagen, npp, par
from pointillist.zoo.files import address_of, find_file, hashed, read_file

B, TWIN = llamagen.MEMBERS[5], npp.MEMBERS[0]
WEIGHTS = {"norm.weight": torch.arange(6.0).view(2, 3), "output.weight": torch.ones(2)}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------- finding


def test_a_file_a_folder_and_one_level_below_it(tmp_path):
    assert (B.name, B.file, TWIN.file) == ("llamagen-b-256", "c2i_B_256.pt", "c2i_B_256.pt")
    nested = touch(tmp_path / "LlamaGen" / "c2i_B_256.pt")
    assert find_file(B, str(nested)) == find_file(B, str(tmp_path)) == find_file(B, str(nested.parent)) == nested
    own = touch(tmp_path / "any name.pt")
    assert find_file(B, str(own)) == own
    direct = touch(tmp_path / "c2i_B_256.pt")
    assert find_file(B, str(tmp_path)) == direct


def test_an_alias_is_as_good_as_the_name(tmp_path):
    member = next(m for m in par.MEMBERS if m.aliases)
    found = touch(tmp_path / "PAR-1B-4x.pt")
    assert find_file(member, str(tmp_path)) == found
    assert find_file(member, str(tmp_path)) != touch(tmp_path / "PAR-XXL-4x.pt") == find_file(member, str(tmp_path))


def test_a_file_in_the_folder_of_another_repository_is_not_taken(tmp_path):
    """Next-Patch Prediction's files have the names of LlamaGen's, and their shapes."""
    theirs = touch(tmp_path / "LlamaGen" / "c2i_B_256.pt")
    for weights in (tmp_path, theirs.parent):
        with pytest.raises(FileNotFoundError, match=r"holds no c2i_B_256.pt of npp-b-256; download https"):
            find_file(TWIN, str(weights), [B, TWIN])
    assert find_file(B, str(tmp_path), [B, TWIN]) == theirs
    theirs = theirs.replace(touch(tmp_path / "llamagen" / "x").with_name(B.file))  # however it is written
    mine = touch(tmp_path / "LlamaGen-NPP" / "c2i_B_256.pt")
    assert find_file(TWIN, str(tmp_path), [B, TWIN]) == mine
    assert find_file(B, str(tmp_path), [B, TWIN]) == theirs
    documented = touch(tmp_path / "npp" / "c2i_B_256.pt")  # the folder that docs/zoo.md downloads into
    with pytest.raises(FileNotFoundError, match=r"npp holds no c2i_B_256.pt of llamagen-b-256"):
        find_file(B, str(documented.parent), [B, TWIN])
    with pytest.raises(ValueError, match="lies in a folder named like another publication's") as error:
        find_file(B, str(documented), [B, TWIN])
    one_line(error)
    assert find_file(TWIN, str(documented), [B, TWIN]) == documented


def test_several_files_are_a_question_not_a_choice(tmp_path):
    for name in ("one", "two"):
        touch(tmp_path / name / B.file)
    with pytest.raises(ValueError, match=r"llamagen-b-256 could be any of .*one.*two.*; give the file") as error:
        find_file(B, str(tmp_path))
    one_line(error)


def test_what_is_missing_is_named_with_its_address(tmp_path):
    address = "https://huggingface.co/FoundationVision/LlamaGen/resolve/main/c2i_B_256.pt"
    assert address_of(B) == address
    for weights in (tmp_path, tmp_path / "nowhere", "a/b/c"):
        with pytest.raises(FileNotFoundError) as error:
            find_file(B, str(weights))
        assert f"download {address} and give its folder, weights=FOLDER" in one_line(error)


def test_the_hub_is_asked_for_a_repository_and_for_nothing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: asked.append(a) or str(tmp_path / "got"))
    assert find_file(B, "someone/copies") == find_file(B, "") == tmp_path / "got"
    assert asked == [("someone/copies", B.file), ("FoundationVision/LlamaGen", B.file)]


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def offline(*_):
        raise OSError("Network is unreachable\nsee the long trace")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(
        FileNotFoundError, match=r"FoundationVision/LlamaGen .*Network is unreachable.*; download"
    ) as error:
        find_file(B, "")
    one_line(error)
    with pytest.raises(FileNotFoundError, match=r"^there is no file or folder weights/llamagen, and c2i_B_256.pt of"):
        find_file(B, "weights/llamagen")


# ------------------------------------------------------------------------------------------------------------- reading


def test_every_format_gives_the_same_tensors_as_fp32(tmp_path):
    half = {key: value.half() for key, value in WEIGHTS.items()}
    torch.save({"model": half, "args": argparse.Namespace(a=1)}, tmp_path / "zip.pt")
    torch.save({"model": half}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(half, tmp_path / "a.safetensors")
    torch.save({"state_dict": WEIGHTS | {"freqs_cis": torch.ones(2)}}, tmp_path / "buffers.pt")
    for path in tmp_path.iterdir():
        found = read_file(path, llamagen)
        assert found.keys() == WEIGHTS.keys(), path
        assert all(torch.equal(found[key], WEIGHTS[key]) and found[key].dtype == torch.float32 for key in WEIGHTS)


def test_dotted_wrappers_are_followed_and_the_first_that_is_there_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(llamagen, "WRAPPERS", ("trainer.network", "model"))
    torch.save({"model": {"b": torch.ones(1)}, "trainer": {"network": {"a": torch.ones(1)}, "step": 3}}, tmp_path / "a")
    assert read_file(tmp_path / "a", llamagen).keys() == {"a"}


class Code:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['TRAP']}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_named_and_not_run(zipped, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "trap"))
    held = {"model": WEIGHTS, "args": argparse.Namespace(hook=Code())}
    torch.save(held, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"a.pt holds posix.system, which would run code; only tensors") as error:
        read_file(tmp_path / "a.pt", llamagen)
    one_line(error)
    assert not (tmp_path / "trap").exists()
    torch.load(tmp_path / "a.pt", weights_only=False)  # the control: it would have
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("held", [nn.Linear(2, 2), {"model": WEIGHTS, "args": replace(B, aliases=())}])
def test_other_python_objects_are_named_too(held, tmp_path):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"holds (torch.nn.modules.linear.Linear|pointillist.zoo.family.Member), "
    ) as e:
        read_file(tmp_path / "a.pt", llamagen)
    one_line(e)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("content", [
    None, b"PK\x05\x06" + 18 * b"\0", 99 * b"x" + b"PK\x05\x06" + 18 * b"\1",
])  # fmt: skip
def test_rubbish_is_one_line(content, tmp_path, monkeypatch):
    """A pickle that torch did not write, archives without a directory."""
    monkeypatch.setenv("TRAP", str(tmp_path / "trap"))
    (tmp_path / "a.pt").write_bytes(content or pickle.dumps(Code(), protocol=4))
    with pytest.raises(ValueError, match=r"a.pt (is damaged|holds)") as error:
        read_file(tmp_path / "a.pt", llamagen)
    one_line(error)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_called_so(kind, share, tmp_path):
    path, weights = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt"), {"a": torch.randn(50, 50)}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"a\.\w+ is damaged, cut off or no checkpoint .*; download it again") as error:
        read_file(path, llamagen)
    one_line(error)


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty; download it again"),
    (b"\n<!DOCTYPE html><html>404", r"\(\d+ bytes\) is a web page, not a checkpoint"),
    (b"<html><body>Sign in", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "only points to the file; run `git lfs pull`"),
    (b"these are no weights at all", "is damaged, cut off or no checkpoint"),
])  # fmt: skip
def test_what_lies_in_the_place_of_a_checkpoint_is_named(content, said, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_file(tmp_path / "a.pt", llamagen)
    one_line(error)


@pytest.mark.parametrize(("held", "said"), [
    ({}, "holds no tensors by name, but a dict; they are looked for at the top and under model, module, state_dict"),
    ({"model": {}}, "a dict of model; they"),
    ({"epoch": 3, "trainer": {"a": 1}}, "a dict of epoch, trainer; they"),
    ([torch.ones(1)], "a list; they"),
    ({"model": {"a": torch.ones(1), "module.a": torch.ones(1)}}, "holds a twice, with and without a prefix"),
])  # fmt: skip
def test_a_file_without_tensors_by_name_says_what_it_holds(held, said, tmp_path):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=said) as error:
        read_file(tmp_path / "a.pt", llamagen)
    one_line(error)


@pytest.mark.filterwarnings("ignore:.*jit:FutureWarning")
def test_a_program_is_not_a_checkpoint(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match="TorchScript archive, a program"):
        read_file(tmp_path / "a.pt", llamagen)


def test_the_hash_is_the_files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hashed(tmp_path / "a").startswith("ba7816bf8f01cfea")
