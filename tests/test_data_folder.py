"""Images from folders, tars, WebDataset shards and Hugging Face files: same pictures, same labels, clear refusals."""

import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pointillist.configs.options import load, option
from pointillist.data.crops import Views
from pointillist.data.folder import Options, open_images, readable_names
from pointillist.data.images import decode


def png(grey, mode="RGB", form="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, (9, 8), grey if mode != "RGB" else (grey,) * 3).save(buffer, form)
    return buffer.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def make_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def grey(images, i):
    return images.read(i).getpixel((0, 0))[0]


def seen(images):
    """{grey level: class}"""
    return {grey(images, i): images.classes[images.labels[i]] for i in range(len(images))}


ANIMALS = {f"{name}/{i}.png": png(100 * c + i) for c, name in enumerate(["cat", "dog"]) for i in range(20)}
EXPECTED = {100 * c + i: name for c, name in enumerate(["cat", "dog"]) for i in range(20)}


def open_both(root, **options):
    return [open_images(Options(root=str(root), **options), split) for split in ("train", "heldout")]


def check_hash_split(root, **options):
    train, heldout = open_both(root, heldout=0.3, **options)
    assert train.classes == heldout.classes == ("cat", "dog")
    assert seen(train) | seen(heldout) == EXPECTED and not seen(train).keys() & seen(heldout).keys()
    assert 4 <= len(heldout) <= 20
    again = open_images(Options(root=str(root), heldout=0.3, **options), "heldout")
    assert again.fingerprint == heldout.fingerprint and seen(again) == seen(heldout)
    return train, heldout


def test_folder_split_by_hash(tmp_path):
    for name, data in ANIMALS.items():
        write(tmp_path / name, data)
    write(tmp_path / "cat" / "._0.png", b"macOS")
    write(tmp_path / "cat" / "notes.txt", b"not an image")
    train, _ = check_hash_split(tmp_path)
    write(tmp_path / "dog" / "0.png", png(100) + b"changed")
    write(tmp_path / "cat" / "0.png", png(0) + b"changed")
    changed = open_both(tmp_path, heldout=0.3)
    assert {i.fingerprint for i in changed} != {train.fingerprint, _.fingerprint}


def test_folder_with_its_own_split(tmp_path):
    for name, data in ANIMALS.items():
        write(tmp_path / "train" / name, data)
    write(tmp_path / "val" / "dog" / "x.png", png(250))  # has no cat: its dog must still be label 1
    train, heldout = open_both(tmp_path)
    assert seen(train) == EXPECTED and seen(heldout) == {250: "dog"}
    assert heldout.labels.tolist() == [1]
    write(tmp_path / "val" / "cow" / "x.png", png(251))
    with pytest.raises(ValueError, match="classes that the training images lack: cow"):
        open_images(Options(root=str(tmp_path)), "heldout")


def test_tar(tmp_path):
    make_tar(tmp_path / "animals.tar", ANIMALS)
    check_hash_split(tmp_path / "animals.tar")
    whole = (tmp_path / "animals.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 - 300])
    write(tmp_path / "zip.tar", b"PK" * 5000)
    make_tar(tmp_path / "empty.tar", {"a.txt": b""})
    for name, message in [("cut", "cut"), ("zip", "not a plain tar"), ("empty", "holds no images")]:
        with pytest.raises(ValueError, match=message):
            open_images(Options(root=str(tmp_path / f"{name}.tar")), "train")


def shard_files(label):
    files = {}
    for i, (name, data) in enumerate(ANIMALS.items()):
        key = f"{i:04d}"
        files |= {f"{key}.png": data, **label(key, name.partition("/")[0], f"picture {i}")}
    return files


@pytest.mark.parametrize("kind", ["json", "cls"])
def test_webdataset(tmp_path, kind):
    def label(key, name, text):
        if kind == "json":
            return {f"{key}.json": json.dumps({"label": name, "caption": text}).encode()}
        return {f"{key}.cls": str(["cat", "dog"].index(name)).encode(), f"{key}.txt": text.encode()}

    files = list(shard_files(label).items())
    make_tar(tmp_path / "data-0000.tar", dict(files[:60]))
    make_tar(tmp_path / "data-0001.tar", dict(files[60:]))
    train, heldout = open_both(f"wds/{tmp_path}", heldout=0.3)
    assert len(train) + len(heldout) == 40 and len(heldout) >= 4
    names = {"0": "cat", "1": "dog", "cat": "cat", "dog": "dog"}
    assert {g: names[c] for g, c in (seen(train) | seen(heldout)).items()} == EXPECTED
    greys = list(EXPECTED)
    assert all(train.captions[i] == f"picture {greys.index(grey(train, i))}" for i in range(len(train)))


def test_webdataset_own_split_and_refusals(tmp_path):
    make_tar(tmp_path / "birds-train-0.tar", {"a.jpg": png(3, form="JPEG"), "a.cls": b"0", "b.c.png": png(9)})
    make_tar(tmp_path / "birds-val-0.tar", {"a.webp": png(7, form="WEBP"), "a.cls": b"0"})
    train, heldout = open_both(f"wds/{tmp_path}")
    assert (len(train), len(heldout)) == (1, 1) and abs(grey(heldout, 0) - 7) < 3
    make_tar(tmp_path / "birds-train-1.tar", {"z.png": png(1)})
    with pytest.raises(ValueError, match=r"1 of 2 samples have no label .* birds-train-1.tar/z.png"):
        open_both(f"wds/{tmp_path}")
    make_tar(tmp_path / "birds-train-1.tar", {"z.png": png(1), "z.json": b"{"})
    with pytest.raises(ValueError, match=r"z\.json is not JSON"):
        open_both(f"wds/{tmp_path}")


def test_hugging_face_files(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    columns = {
        "image": [{"bytes": data, "path": None} for data in ANIMALS.values()],
        "label": [["cat", "dog"].index(name.partition("/")[0]) for name in ANIMALS],
        "text": [f"picture {i}" for i in range(40)],
    }
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    data = datasets.Dataset.from_dict(columns, datasets.Features(kinds | {"text": datasets.Value("string")}))
    (tmp_path / "one").mkdir()
    data.to_parquet(tmp_path / "one" / "train-00000-of-00001.parquet")
    train, _ = check_hash_split(f"hfds/{tmp_path}/one", caption_column="text")
    greys = list(EXPECTED)
    assert all(train.captions[i] == f"picture {greys.index(grey(train, i))}" for i in range(len(train)))
    with pytest.raises(ValueError, match=r"image_column=img: .* has the columns image, label, text"):
        open_both(f"hfds/{tmp_path}/one", image_column="img")
    with pytest.raises(ValueError, match="label_column=text2"):
        open_both(f"hfds/{tmp_path}/one", label_column="text2")
    assert open_both(f"hfds/{tmp_path}/one", label_column="")[0].classes == ("image",)

    (tmp_path / "two").mkdir()
    data.to_parquet(tmp_path / "two" / "train-00000-of-00001.parquet")
    data.select([39]).to_parquet(tmp_path / "two" / "test-00000-of-00001.parquet")
    train, heldout = open_both(f"hfds/{tmp_path}/two")
    assert seen(train) == EXPECTED and seen(heldout) == {119: "dog"}
    data.save_to_disk(tmp_path / "saved")
    for folder in ("saved", "absent"):
        with pytest.raises(ValueError, match="cannot open Hugging Face data"):
            open_both(f"hfds/{tmp_path}/{folder}")


def test_bad_images(tmp_path, capsys):
    for i in range(4):
        write(tmp_path / f"{i}.png", png(i))
    write(tmp_path / "cut.png", png(5)[:-30])
    write(tmp_path / "text.jpg", b"hello")
    write(tmp_path / "empty.png", b"")
    images = open_images(Options(root=str(tmp_path), heldout=0.0), "train")
    assert len(images) == 7 and images.classes == (tmp_path.name,)
    errors = []
    for i in range(7):
        try:
            images.read(i)
        except ValueError as e:
            errors.append(str(e))
    assert [e.split(" ")[3] for e in errors] == ["cut.png", "empty.png", "text.jpg"]
    assert "(not an image)" in errors[1] and "truncated" in errors[0] and "\n" not in "".join(errors)

    skipped = open_images(Options(root=str(tmp_path), heldout=0.0, bad_images="skip"), "train")
    assert [grey(skipped, i) for i in range(len(skipped))] == [0, 1, 2, 3]
    assert "3 of 7 images left out" in (told := capsys.readouterr().err) and "text.jpg" in told


def test_transparent_16_bit_and_grey():
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(buffer, "PNG")
    assert decode(buffer.getvalue(), "x").getpixel((0, 0)) == (255, 255, 255)  # convert("RGB") would give red
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), 40000, np.uint16)).save(buffer, "PNG")
    assert decode(buffer.getvalue(), "x").getpixel((0, 0)) == (156, 156, 156)  # convert("RGB") would give white
    assert decode(png(77, "L"), "x").getpixel((0, 0)) == (77, 77, 77)


def test_roots_that_are_not_there(tmp_path):
    make_tar(tmp_path / "a.tar", {"a.png": png(1)})
    for root, message in [
        ("", "data.root='' does not exist"),
        (str(tmp_path / "no"), "does not exist; give an image folder"),
        (str(tmp_path), f"holds no images .*data.root=wds/{tmp_path}"),
        (f"wds/{tmp_path}/no", "does not exist"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_images(Options(root=root), "train")


def test_options_from_words():
    @dataclass
    class Script:
        data: Any = option("emoji", part="data")
        views: Views = option(Views())

    loaded = load(Script, None, ["data=folder", "data.root=x", "views.crop=ten", "views.zoom=[1.1,1.05]"])
    assert loaded.data == Options(root="x") and loaded.views == Views(crop="ten", zoom=[1.1, 1.05])
    assert load(Script).data.name == "emoji"
    with pytest.raises(ValueError, match=r"bad_images"):
        load(Script, None, ["data=folder", "data.bad_images=ignore"])


def test_imagenet_names():
    names = readable_names(("n01440764", "n02012849", "n03126707"))
    assert names == ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
    assert readable_names(("cat", "n01440764")) == ("cat", "n01440764")
