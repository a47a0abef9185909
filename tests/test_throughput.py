"""Many images: written behind the sampling, refilled batches, PNGs, the decoder's precision; as a user runs it."""

from __future__ import annotations

import json
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pointillist.configs.options import find
from pointillist.sampling.trace import Trace
from pointillist.training.behind import WAITING, Behind
from pointillist.training.jobs import finished
from pointillist.training.precision import cast_decoder, decoded_in
from pointillist.training.request import Request
from tests.commands import begun, fails, sampled, stopped, succeeds

# ------------------------------------------------------------------------------------------------------------- Behind


def test_calls_are_made_in_order_and_all_of_them():
    found = []
    with Behind(found.append) as later:
        for i in range(20):
            later(i)
    assert found == list(range(20))


def test_no_more_calls_wait_than_memory_is_meant_for():
    gate, asked = threading.Event(), []
    with Behind(lambda i: gate.wait(10)) as later:

        def ask() -> None:
            for i in range(WAITING + 3):
                later(i)
                asked.append(i)

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.3)
        assert asking.is_alive() and len(asked) <= WAITING + 1
        gate.set()
        asking.join()


def test_an_error_comes_back_and_nothing_is_called_after_it():
    def fail(i: int) -> None:
        found.append(i)
        if i == 1:
            raise OSError("cannot write")

    found: list[int] = []
    with pytest.raises(OSError, match="cannot write"), Behind(fail) as later:
        for i in range(100):
            later(i)
    assert found == [0, 1]
    found.clear()
    with pytest.raises(OSError, match="cannot write"), Behind(fail) as later:  # at the end, where none is asked after
        later(0)
        later(1)


def test_what_was_asked_for_is_done_when_the_block_is_left_by_an_error():
    found = []
    with pytest.raises(KeyboardInterrupt), Behind(found.append) as later:
        later(1)
        later(2)
        raise KeyboardInterrupt
    assert found == [1, 2]


# ------------------------------------------------------------------------------------------------------------ finished


def test_images_are_handed_on_in_batches_with_their_own_counts():
    """Groups as they come, never parted: what the trace says with a batch is of it and of those before."""
    groups = [3, 2, 2, 4, 1, 1]

    def stream(law, cond, noise, images, trace, options, rows):
        at = 0
        for size in groups:
            trace.finished(7, size)
            yield torch.arange(at, at + size), cond[at : at + size, None]
            at += size

    job = SimpleNamespace(
        options=SimpleNamespace(batch_size=5, sampler=None, precision="fp32"),
        sampler=SimpleNamespace(stream=stream),
        labels=torch.arange(100),
        law=None,
        noise=None,
    )
    images = torch.arange(13) + 10
    found = list(finished(job, images, Trace()))
    assert [len(numbers) for numbers, _, _ in found] == [5, 2, 5, 1]
    assert torch.equal(torch.cat([numbers for numbers, _, _ in found]), images)
    assert torch.equal(torch.cat([codes for _, codes, _ in found])[:, 0], images), "their own labels"
    assert [counted["images"] for _, _, counted in found] == [5, 7, 12, 13]
    assert not list(finished(job, images[:0], Trace()))


# ------------------------------------------------------------------------------------------------------------ commands

JACOBI = ["sampler=jacobi", "sampler.window=4", "guidance=2", "precision=fp64"]


def test_refilled_batches_give_the_images_of_plain_decoding(generator, tmp_path):
    request, files = ["num_images=23", "guidance=2", "precision=fp64"], {}
    traces = {}
    for name, words in {"a": [], "b": [*JACOBI, "batch_size=5"], "c": [*JACOBI, "batch_size=23"]}.items():
        traces[name] = sampled(generator, tmp_path / name, *request, *words)["trace"]
        files[name] = [dict(np.load(tmp_path / name / f"{kind}.npz")) for kind in ("images", "codes")]
    for name in "bc":
        for mine, theirs in zip(files[name], files["a"], strict=True):
            assert all(np.array_equal(mine[key], theirs[key]) for key in theirs)
    assert traces["b"]["images"] == 23 and traces["b"]["nfe"] == traces["c"]["nfe"]
    assert traces["b"]["committed"] == traces["c"]["committed"] and traces["b"]["by_slot"] == traces["c"]["by_slot"]
    assert sum(int(groups) * times for groups, times in traces["b"]["committed"].items()) == 16 * 23


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_stopped_stream_continues_and_counts_no_image_twice(how, generator, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [*JACOBI, "num_images=200", "batch_size=3"]
    succeeds("sample.py", generator, f"out={whole}", *words)
    code, _ = stopped(how, lambda: begun(killed), "sample.py", generator, f"out={killed}", *words)
    assert code == (-how if how == signal.SIGKILL else 130)
    done = int(np.load(killed / "parts" / "done.npy").sum())
    counted = json.loads((killed / "parts" / "trace.json").read_text())
    assert 0 < done < 200 and counted["images"] >= done
    if how == signal.SIGINT:
        assert counted["images"] == done, "nothing half written"
    succeeds("sample.py", generator, f"out={killed}", *words)
    for name in ("images.npz", "codes.npz"):
        assert (whole / name).stat().st_size == (killed / name).stat().st_size
        with np.load(whole / name) as a, np.load(killed / name) as b:
            assert all(np.array_equal(a[k], b[k]) for k in a.files)
    told = json.loads((killed / "sample.json").read_text())["trace"]
    expected = json.loads((whole / "sample.json").read_text())["trace"]
    if counted["images"] == done:  # a kill may fall between the counts of a batch and its mark
        assert told["nfe"] == expected["nfe"] and told["committed"] == expected["committed"]
        assert told["by_slot"]["verified"] == expected["by_slot"]["verified"]


def test_pngs_are_the_images_and_only_the_missing_ones_are_written(generator, tmp_path):
    out = tmp_path / "out"
    sampled(generator, out)
    assert not (out / "png").exists(), "not unless asked for"
    assert "is finished" in succeeds("sample.py", generator, "num_images=3", "png=true", f"out={out}")
    images = np.load(out / "images.npz")["arr_0"]
    names = [out / "png" / f"{i:06d}.png" for i in range(3)]
    assert sorted((out / "png").iterdir()) == names
    assert all(np.array_equal(np.asarray(Image.open(path)), image) for path, image in zip(names, images, strict=True))
    names[1].unlink()
    stamps = [names[i].stat().st_mtime_ns for i in (0, 2)]
    succeeds("sample.py", generator, "num_images=3", "png=true", f"out={out}")
    assert names[1].is_file() and stamps == [names[i].stat().st_mtime_ns for i in (0, 2)]


# ---------------------------------------------------------------------------------------------------- decoder_precision


def test_a_decoder_in_bf16_is_close_recorded_and_another_request(generator, tmp_path):
    exact, half = (
        sampled(generator, tmp_path / kind, f"decoder_precision={kind}", "num_images=6") for kind in ("fp32", "bf16")
    )
    images, codes = (
        {k: np.load(tmp_path / k / f"{name}.npz") for k in ("fp32", "bf16")} for name in ("images", "codes")
    )
    assert np.array_equal(codes["fp32"]["codes"], codes["bf16"]["codes"]), "codes are none of the decoder's"
    apart = np.abs(images["fp32"]["arr_0"].astype(int) - images["bf16"]["arr_0"])
    assert 0 < apart.max() <= 8 and apart.mean() < 1
    assert exact["options"]["decoder_precision"] == "fp32" and half["options"]["decoder_precision"] == "bf16"
    fails("decoder_precision was fp32, is bf16", "sample.py", generator, "num_images=6", "decoder_precision=bf16",
          f"out={tmp_path / 'fp32'}")  # fmt: skip
    fails("decodes so too", "sample.py", generator, "precision=fp16_autocast", "decoder_precision=bf16",
          f"out={tmp_path / 'no'}")  # fmt: skip


@pytest.mark.parametrize("name", ["conv", "latent", "pyramid", "vqgan", "vqvae"])
def test_every_network_decodes_in_bf16_from_its_own_exact_vectors(name):
    torch.manual_seed(0)
    module = find("tokenizers", name)
    tokenizer = module.Tokenizer(module.Options(), 32).eval().requires_grad_(False)
    spec = tokenizer.spec
    shape = (2, spec.length) if spec.vocab else (2, spec.length, spec.channels)
    codes = torch.randint(spec.vocab[0], shape) if spec.vocab else torch.randn(shape)
    kept = {key: value.dtype for key, value in tokenizer.state_dict().items() if not key.startswith("decoder.")}
    with torch.inference_mode():
        exact = tokenizer.decode(codes)
        cast_decoder(tokenizer, "fp32")
        assert torch.equal(tokenizer.decode(codes), exact)
        cast_decoder(tokenizer, "bf16")
        half = tokenizer.decode(codes)
    assert {p.dtype for p in tokenizer.decoder.parameters()} == {torch.bfloat16}
    assert kept == {key: value.dtype for key, value in tokenizer.state_dict().items() if key in kept}
    assert half.dtype == torch.float32 and 0 < (half - exact).abs().max() < 0.15


def test_a_tokenizer_without_a_network_refuses():
    module = find("tokenizers", "patches")
    with pytest.raises(ValueError, match="tokenizer=patches has no decoding network to turn to bf16"):
        cast_decoder(module.Tokenizer(module.Options(), 32), "bf16")


def test_protocol_cards_tell_how_images_were_decoded():
    assert Request().decoder_precision == "fp32"
    assert decoded_in("fp32") == decoded_in("bf16", "fp32") == "float32, TF32 off"
    assert decoded_in("fp32", "bf16") == "bfloat16" and decoded_in("fp16_autocast") == "float16 autocast"
