"""The frozen-code cache: round trip, exact resume, and one clear line for everything that does not belong."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pointillist import CodeSpec
from pointillist.data import encode
from pointillist.data.codes import open_codes, read_codes
from pointillist.data.crops import Views, view
from pointillist.data.images import Images, to_float

ID = {"name": "toy", "sha256": "a" * 64}


class Toy:
    """Code of each 4x4 cell = its mean level; 16 codes for a 16x16 image."""

    def __init__(self, spec=None, stop_after=None):
        self.spec = spec or CodeSpec(grids=((4, 4),), vocab=(256,), channels=1)
        self.calls, self.stop_after = 0, stop_after

    def encode(self, images):
        self.calls += 1
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        assert images.dtype == torch.float32 and images.min() >= -1 and images.max() <= 1
        level = (torch.nn.functional.avg_pool2d(images.mean(1), 4).flatten(1) + 1) / 2  # [B, 16] in 0..1
        if not self.spec.vocab:
            level = level[..., None].expand(-1, -1, self.spec.channels)
            return torch.cat([level, 0 * level + 0.5], -1) if self.spec.stochastic else level
        codes = [(level * (v - 1)).round().long() for v in self.spec.vocab]
        return codes[0] if len(codes) == 1 else torch.stack(codes, -1)


def pictures(n=23, name="noise", fingerprint="f" * 64):
    def read(i):
        return Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8))

    return Images(name, ("even", "odd"), np.arange(n) % 2, (), fingerprint, read)


VIEWS = Views(16, "jitter", count=3)
LAYOUT = {"shard_rows": 10, "batch_size": 8, "progress": False}


def opened(folder, tokenizer=None, identity=ID, images=None, views=VIEWS, **layout):
    return open_codes(
        folder, tokenizer or Toy(), identity, pictures() if images is None else images, views, **{**LAYOUT, **layout}
    )


def contents(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def expected(tokenizer, i, k):
    image = view(pictures().read(i), VIEWS, k, 0, i)
    return tokenizer.encode(to_float(torch.tensor(image).permute(2, 0, 1)[None]))[0]


@pytest.mark.parametrize("vocab, dtype", [((256,), "|u1"), ((257,), "<u2"), ((2**18,), "<u4"), ((64, 4096), "<u2")])
def test_round_trip(tmp_path, vocab, dtype):
    toy = Toy(CodeSpec(((4, 4),), vocab, 1))
    codes = opened(tmp_path / "c", toy)
    assert len(codes) == 23 and codes.num_views == 3 and codes.spec.length == 16 and codes.classes == ("even", "odd")
    assert codes.spec == toy.spec and codes.shards[0].dtype.str == dtype and len(codes.shards) == 3
    for k in range(3):
        everything = codes.view(k)
        assert everything.dtype == torch.int64
        assert all(torch.equal(everything[i], expected(toy, i, k)) for i in range(23))
    calls = toy.calls
    assert torch.equal(opened(tmp_path / "c", toy).view(0), codes.view(0)) and toy.calls == calls
    assert torch.equal(read_codes(tmp_path / "c", verify=True).view(2), codes.view(2))
    assert sorted(contents(tmp_path / "c"))[-3:] == ["labels.npy", "manifest.json", "request.json"]


def test_batch_is_pure_and_an_epoch_is_whole(tmp_path):
    codes = opened(tmp_path)
    seen = []
    for step in range(23):
        batch, again = codes.batch(step, 5, seed=2), read_codes(tmp_path).batch(step, 5, seed=2)
        assert all(torch.equal(batch[k], again[k]) for k in batch)
        assert batch["codes"].dtype == batch["labels"].dtype == torch.int64 and batch["codes"].shape == (5, 16)
        assert torch.equal(batch["labels"], batch["index"] % 2)
        seen += batch["index"].tolist()
    assert all(sorted(seen[e : e + 23]) == list(range(23)) for e in range(0, 115, 23))
    allowed = torch.stack([codes.view(k) for k in range(3)], 1)  # [n, V, N]
    hits = (codes.batch(0, 23, 2)["codes"][:, None] == allowed[codes.batch(0, 23, 2)["index"]]).all(-1)
    assert hits.any(1).all() and (hits.sum(0) > 2).all()  # each a view of its own image, all views in use
    assert not torch.equal(codes.batch(0, 5, 2)["codes"], codes.batch(0, 5, 3)["codes"])


def test_one_shard_gives_the_same_batches(tmp_path):
    many, one = opened(tmp_path / "many"), opened(tmp_path / "one", shard_rows=50)
    assert (len(many.shards), len(one.shards)) == (3, 1)
    assert all(torch.equal(many.batch(s, 9, 0)["codes"], one.batch(s, 9, 0)["codes"]) for s in range(5))


def test_stochastic_codes_are_drawn(tmp_path):
    codes = opened(tmp_path, Toy(CodeSpec(((4, 4),), (), 4, stochastic=True)))
    assert codes.shards[0].shape == (10, 3, 16, 8) and codes.shards[0].dtype == np.float16
    assert codes.view(0).shape == (23, 16, 8) and codes.view(0).dtype == torch.float32
    batch = codes.batch(0, 23, 0)
    assert batch["codes"].shape == (23, 16, 4) and batch["codes"].dtype == torch.float32
    assert torch.equal(batch["codes"], codes.batch(0, 23, 0)["codes"])
    drawn = torch.cat([codes.batch(s, 23, 0)["codes"] for s in range(40)])
    assert abs(drawn.std() - 0.5) < 0.05 and abs(drawn.mean() - codes.view(0)[..., :4].mean()) < 0.06
    plain = opened(tmp_path / "plain", Toy(CodeSpec(((4, 4),), (), 4)))
    assert plain.batch(0, 5, 0)["codes"].shape == (5, 16, 4)


@pytest.mark.parametrize("stop_after", [1, 5, 9, 12])
def test_an_interrupted_build_continues_byte_for_byte(tmp_path, stop_after):
    opened(tmp_path / "whole", undisturbed := Toy())
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "c", Toy(stop_after=stop_after))
    left = contents(tmp_path / "c")
    assert "manifest.json" not in left and not any(name.endswith(".tmp") for name in left)
    with pytest.raises(ValueError, match=r"no complete code cache"):
        read_codes(tmp_path / "c")
    (tmp_path / "c" / "codes-00002.npy.tmp").write_bytes(b"left by a power cut")
    opened(tmp_path / "c", rest := Toy(), batch_size=5, shard_rows=7)  # another layout must not leak into a begun cache
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")
    finished = [name for name in left if name.startswith("codes")]
    assert rest.calls == undisturbed.calls - sum({"codes-00000.npy": 5, "codes-00001.npy": 5}[n] for n in finished)


def test_a_begun_build_is_not_continued_with_something_else(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, Toy(stop_after=8))
    with pytest.raises(ValueError, match="made with tokenizer toy"):
        opened(tmp_path, identity={"name": "toy", "sha256": "b" * 64})
    (tmp_path / "codes-00000.npy").write_bytes((tmp_path / "codes-00000.npy").read_bytes()[:-9])  # torn: made anew
    assert opened(tmp_path).view(0).shape == (23, 16)


def refusal(folder, **asked):
    with pytest.raises(ValueError) as caught:
        opened(folder, **asked)
    message = str(caught.value)
    assert "\n" not in message and f"delete {folder} or choose another codes=FOLDER" in message
    return message


def test_refusals_name_what_is_there_and_what_is_wanted(tmp_path):
    opened(tmp_path)
    message = refusal(tmp_path, identity={"name": "other", "sha256": "b" * 64})
    assert "made with tokenizer toy (sha256 aaaaaaaaaaaa), but this run wants other (sha256 bbbbbbbbbbbb)" in message
    assert "spec" in refusal(tmp_path, tokenizer=Toy(CodeSpec(((4, 4),), (128,), 1)))
    message = refusal(tmp_path, images=pictures(24, fingerprint="e" * 64))
    assert "from 23 images noise (fingerprint ffffffffffff), but this run wants 24 images" in message
    assert "crop=jitter" in refusal(tmp_path, views=Views(16)) and "size=16" in refusal(tmp_path, views=Views(20))
    assert "other labels" in refusal(tmp_path, images=replace(pictures(), labels=np.zeros(23, np.int64)))
    assert "classes even, odd" in refusal(tmp_path, images=replace(pictures(), classes=("a", "b")))
    opened(tmp_path, views=Views(16, "jitter", count=3, zoom=[0.8, 1.0]))  # the same views, spelled out


def test_refusals_of_damage(tmp_path):
    opened(tmp_path)
    manifest, shard = tmp_path / "manifest.json", tmp_path / "codes-00001.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "codes-00001.npy is damaged: its sha256" in refusal(tmp_path)
    shard.write_bytes(whole[:-1])
    assert f"{len(whole) - 1} bytes instead of {len(whole)}" in refusal(tmp_path)
    shard.unlink()
    assert "codes-00001.npy is missing" in refusal(tmp_path)
    shard.write_bytes(whole)
    opened(tmp_path)
    text = manifest.read_text()
    manifest.write_text(text[: len(text) // 2])
    assert "manifest.json cannot be read" in refusal(tmp_path)
    manifest.write_text(json.dumps({**json.loads(text), "format": 0}))
    assert "cache format 0, this code reads 1" in refusal(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files and no code cache"):
        opened(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_full_disk_and_unwritable_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"request.json \(Not a directory\); make room or choose another"):
        opened(tmp_path / "file" / "codes")
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "c", Toy(stop_after=7))
    (tmp_path / "c" / "codes-00001.npy.tmp").symlink_to("/dev/full")  # every write: no space left on device
    with pytest.raises(OSError, match=r"cannot write .*codes-00001.npy \(No space left on device\)"):
        opened(tmp_path / "c")
    assert sorted(contents(tmp_path / "c")) == ["codes-00000.npy", "request.json"]
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(encode.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"the codes need 0\.0 MB more"):
        opened(tmp_path / "c")
    monkeypatch.undo()
    opened(tmp_path / "whole")
    opened(tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_codes_that_break_the_spec_are_not_stored(tmp_path):
    class Wrong(Toy):
        def encode(self, images):
            return super().encode(images) + 200  # above 255: as uint8 it would wrap around silently

    with pytest.raises(AssertionError, match="code >= vocab"):
        opened(tmp_path / "a", Wrong())
    with pytest.raises(ValueError, match="no images to encode"):
        opened(tmp_path / "b", images=pictures(0))
