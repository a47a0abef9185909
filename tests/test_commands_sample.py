"""sample.py as a user runs it: images do not depend on batches or interruptions; inpainting, orders, every family."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import (
    GENERATOR,
    TINY,
    TOKENIZER,
    begun,
    fails,
    sampled,
    stopped,
    succeeds,
)


@pytest.fixture(scope="module")
def any_order(tokenizer) -> Path:
    run = tokenizer.parent / "masked"
    succeeds("train.py", *GENERATOR, f"out={run}", f"tokenizer={tokenizer}", "steps=4", "unit=masked")
    return run


def samples(generator: Path, out: Path, *words: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    succeeds("sample.py", generator, f"out={out}", "num_images=20", "guidance=2", "precision=fp64", *words)
    with np.load(out / "images.npz") as images, np.load(out / "codes.npz") as codes:
        return images["arr_0"], images["arr_1"], codes["codes"]


def test_images_do_not_depend_on_the_batch_size(generator, tmp_path):
    images, labels, codes = samples(generator, tmp_path / "a", "batch_size=20")
    assert images.shape == (20, 16, 16, 3) and images.dtype == np.uint8 and len(labels) == 20
    for other in (
        samples(generator, tmp_path / "b", "batch_size=3"),
        samples(generator, tmp_path / "c", "batch_size=1"),
    ):
        assert np.array_equal(other[2], codes) and np.array_equal(other[1], labels) and np.array_equal(other[0], images)
    assert not np.array_equal(samples(generator, tmp_path / "d", "seed=1")[2], codes), "the control: another seed"
    report = json.loads((tmp_path / "a" / "sample.json").read_text())
    assert report["trace"]["nfe_per_image"] == 16 and report["trace"]["streams"] == 2
    assert report["options"]["seed"] == 0 and report["checkpoint"]["step"] == 6 and report["versions"]["torch"]
    assert report["law"] == "exact" and report["draft"] is None and report["spec"]["grids"] == [[4, 4]]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "codes.npz", "grid.png", "images.npz", "request.json", "sample.json"
    ]  # fmt: skip
    assert "is finished" in succeeds(
        "sample.py", generator, f"out={tmp_path / 'a'}", "num_images=20", "guidance=2", "precision=fp64"
    )


def test_a_killed_sampling_run_continues(generator, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ["num_images=300", "batch_size=2", "precision=fp64"]
    succeeds("sample.py", generator, f"out={whole}", *words)
    stopped(signal.SIGKILL, lambda: begun(killed), "sample.py", generator, f"out={killed}", *words)
    assert 0 < np.load(killed / "parts" / "done.npy").sum() < 300
    succeeds("sample.py", generator, f"out={killed}", "num_images=300", "batch_size=50", "precision=fp64")
    for name in ("images.npz", "codes.npz"):
        with np.load(whole / name) as a, np.load(killed / name) as b:
            assert all(np.array_equal(a[k], b[k]) for k in a.files)
    fails("holds other samples: seed was 0, is 1", "sample.py", generator, f"out={killed}", *words, "seed=1")


def test_inpainting_keeps_the_codes_outside_the_mask(any_order, generator, tokenizer, tmp_path):
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(image)
    white = np.zeros((40, 50), np.uint8)
    white[:, 30:] = 255
    Image.fromarray(white).save(mask)
    codes, request = {}, ["num_images=5", f"image={image}"]
    for name, region, sampler in (("a", "right", "ancestral"), ("b", mask, "masked"), ("c", "right", "masked")):
        succeeds("sample.py", any_order, *request, f"mask={region}", f"sampler={sampler}", f"out={tmp_path / name}")
        codes[name] = np.load(tmp_path / name / "codes.npz")["codes"].reshape(5, 4, 4)
    for name in codes:
        assert (codes[name][:, :, :2] == codes["a"][:1, :, :2]).all(), "kept"
        assert (codes[name][:, :, 2:] != codes[name][:1, :, 2:]).any(), "painted"
    fails("before it sees all that are kept; units that can fill any mask: ", "sample.py", generator, *request,
          "mask=left", f"out={tmp_path / 'd'}")  # fmt: skip
    succeeds("sample.py", generator, *request, "mask=bottom", f"out={tmp_path / 'e'}")
    fails("inpainting needs image=FILE and mask", "sample.py", any_order, "mask=left", f"out={tmp_path / 'd'}")
    fails("no image file nowhere", "sample.py", any_order, f"image={image}", "mask=nowhere", f"out={tmp_path / 'd'}")
    fails("kept_sha256 was", "sample.py", any_order, *request, "mask=left", f"out={tmp_path / 'a'}")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "black.png")
    fails("paints nothing", "sample.py", any_order, f"image={image}", f"mask={tmp_path / 'black.png'}", "out=nowhere")
    (tmp_path / "text.png").write_text("text")
    fails("not an image", "sample.py", any_order, f"image={tmp_path / 'text.png'}", "mask=left", "out=nowhere")


def test_orders_and_passes_may_be_chosen_when_sampling(any_order, tmp_path):
    told = sampled(any_order, tmp_path / "a", "unit.passes=5")
    assert told["trace"]["nfe_per_image"] == 5
    succeeds("sample.py", any_order, "num_images=3", "order=spiral_in", f"out={tmp_path / 'b'}")
    orders = np.stack([np.random.default_rng(i).permutation(16) for i in range(3)])
    np.save(tmp_path / "orders.npy", orders)
    succeeds("sample.py", any_order, "num_images=3", f"order={tmp_path / 'orders.npy'}", f"out={tmp_path / 'c'}")
    fails("chooses what to decode by itself", "sample.py", any_order, "sampler=masked", "order=snake")
    np.save(tmp_path / "wrong.npy", orders[:2])
    fails("one for each of 3 images", "sample.py", any_order, "num_images=3", f"order={tmp_path / 'wrong.npy'}",
          f"out={tmp_path / 'd'}")  # fmt: skip


CONTINUOUS = [*TOKENIZER[:2], "tokenizer=latent", "tokenizer.blocks=1", *TINY]
FAMILIES = {
    "scale": ([*TOKENIZER[:2], "tokenizer=pyramid", "tokenizer.blocks=1", "tokenizer.sides=[1,2,4]",
               "tokenizer.vocab=20", *TINY], ["unit=scale"]),
    "chained books": ([*TOKENIZER, "tokenizer.books=2"], ["unit=cell", "model.books=chain"]),
    "flow": (CONTINUOUS, ["unit=flow", "unit.size=2", "model.flow_steps=3"]),
    "continuous codes masked": (CONTINUOUS, ["unit=masked", "unit.passes=4", "model.flow_steps=3"]),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_codes_goes_all_the_way(family, tmp_path):
    """Tokenizer, codes, generator, its checkpoint read back, samples; the same in any batch."""
    tokenize, generate = FAMILIES[family]
    succeeds("train.py", *tokenize, f"out={tmp_path / 't'}", "steps=4")
    succeeds("train.py", *GENERATOR, *generate, f"tokenizer={tmp_path / 't'}", f"out={tmp_path / 'g'}", "steps=4")
    request = ["num_images=6", "guidance=1..2:steps", "precision=fp64"]
    for size in (6, 2):
        succeeds("sample.py", tmp_path / "g", *request, f"batch_size={size}", f"out={tmp_path / str(size)}")
    if "tokenizer=latent" in tokenize:
        fails("have no top_k, top_p and min_p", "sample.py", tmp_path / "g", "top_p=0.9")
    succeeds("sample.py", tmp_path / "g", "num_images=2", "precision=bf16", f"out={tmp_path / 'bf16'}")
    a, b = (np.load(tmp_path / size / "codes.npz")["codes"] for size in ("6", "2"))
    assert a.shape == b.shape and np.allclose(a, b, atol=1e-6) and (a != a[:1]).any()
