"""Reading what is to be scored: every container gives the same images by number; broken arrays are one clear line."""

import io
import os
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pointillist.evaluation.samples import open_samples
from tests.containers import IMAGES, LABELS, encoded, pixels, write_folder, write_tar, write_zip

CONTAINERS = ("images.npz", "small.npz", "images.npy", "png", "images.zip", "images.tar", ".")


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """The same 70 images in each container; the folder itself is a run's: it holds images.npz."""
    root = tmp_path_factory.mktemp("everywhere")
    np.savez(root / "images.npz", IMAGES, LABELS)
    np.savez_compressed(root / "small.npz", arr_0=IMAGES, mu=np.zeros(3))  # an ADM reference has other keys too
    np.save(root / "images.npy", IMAGES)
    files = {f"{i:03}.png": encoded(image) for i, image in enumerate(IMAGES)}
    write_folder(root / "png", files)
    (root / "png" / "scores.json").write_text("{}")  # of an earlier run
    (root / "png" / "scores.emoji.json").write_text("{}")
    (root / "png" / ".DS_Store").write_text("")
    (root / "png" / "scores.parts").mkdir()
    (root / "png" / "scores.parts" / "bank.npy").write_text("")
    backwards = dict(reversed(files.items()))  # an archive keeps the order in which files were added
    write_zip(root / "images.zip", {**backwards, "__MACOSX/._000.png": b"x"})
    write_tar(root / "images.tar", {f"./{name}": data for name, data in backwards.items()})
    return root


# --------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_holds_the_same_images(everywhere, name):
    samples = open_samples(everywhere / name)
    assert (samples.count, samples.size, samples.lossy) == (70, 8, 0)
    np.testing.assert_array_equal(pixels(samples), IMAGES)
    np.testing.assert_array_equal(pixels(samples), IMAGES)  # batches() starts afresh
    assert samples.folder == (everywhere / "png" if name == "png" else everywhere)
    assert samples.card["pixels"] == {"resize": "none", "size": 8, "quantize": "as stored"}


def test_labels_of_an_npz(everywhere):
    labels = open_samples(everywhere / "images.npz").labels
    assert labels.dtype == np.int64 and labels.tolist() == LABELS.tolist()
    assert all(open_samples(everywhere / name).labels is None for name in CONTAINERS[1:-1])


@pytest.mark.parametrize("name", CONTAINERS)
def test_random_access_equals_sequential(everywhere, name):
    """Forwards with gaps, back to the beginning, nothing, the last: as parts of several processes and resumed runs."""
    samples = open_samples(everywhere / name)
    for chosen in ([3, 4, 5, 20, 69], [0], [], [0, 1, 68], list(range(1, 70, 2)), [69]):
        got = samples.read(np.array(chosen, np.int64))
        assert got.dtype == torch.uint8 and got.shape == (len(chosen), 3, 8, 8)
        np.testing.assert_array_equal(got.permute(0, 2, 3, 1).numpy(), IMAGES[chosen])
    with pytest.raises(AssertionError, match="ascending"):
        samples.read(np.array([5, 4]))
    with pytest.raises(AssertionError, match=r"0\.\.69"):
        samples.read(np.array([70]))


@pytest.mark.parametrize("name", CONTAINERS)
def test_threads_do_not_disturb_each_other(everywhere, name):
    samples = open_samples(everywhere / name)
    parts = [np.arange(i, 70, 7) for i in range(7)] * 4
    with ThreadPoolExecutor(8) as pool:
        for part, images in zip(parts, pool.map(samples.read, parts), strict=True):
            np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), IMAGES[part])


def test_a_compressed_npz_is_one_pass_when_read_forwards(everywhere, monkeypatch):
    samples, opened = open_samples(everywhere / "small.npz"), []
    opening = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, *a, **k: opened.append(a) or opening(self, *a, **k))
    rewinds, seek = [], zipfile.ZipExtFile.seek

    def watched(stream, offset, whence=0):
        rewinds.append(offset < stream.tell())
        return seek(stream, offset, whence)

    monkeypatch.setattr(zipfile.ZipExtFile, "seek", watched)
    for start in range(0, 70, 10):
        samples.read(np.arange(start, start + 10, 2))
    assert len(opened) == 1 and not any(rewinds)
    samples.read(np.array([0]))
    assert rewinds[-1]


def sparse_npz(path, count):
    """A plain .npz whose images are a hole in the file: what np.savez writes, without 2 GB of zeros."""
    info = zipfile.ZipInfo("arr_0.npy")
    header = io.BytesIO()
    shape = (count, 256, 256, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    info.CRC = info.header_offset = 0  # not compared: the images are not read in order
    info.file_size = info.compress_size = len(header.getvalue()) + int(np.prod(shape))
    with path.open("w+b") as stream:
        stream.write(info.FileHeader(zip64=True) + header.getvalue())
        start = stream.tell()
        stream.seek(start + (count - 1) * 256 * 256 * 3)
        stream.write(bytes([7]) * (256 * 256 * 3))
        with zipfile.ZipFile(stream, "a") as archive:
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
            archive.writestr("arr_1.npy", npy(np.arange(count)))
    return path


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_opening_and_reading_parts_of_a_large_file_takes_no_memory(tmp_path, kind):
    count = 11_000  # 2.2 GB
    path = tmp_path / f"large.{kind}"
    if kind == "npz":
        sparse_npz(path, count)
    else:
        np.lib.format.open_memmap(path, "w+", np.uint8, (count, 256, 256, 3))[-1] = 7
    assert path.stat().st_size > 2**31 > 100 * 512 * path.stat().st_blocks, "the file is one large hole"
    tracemalloc.start()
    samples = open_samples(path)
    images = samples.read(np.array([0, count // 2, count - 1]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.flatten(1).float().mean(1).tolist() == [0, 0, 7]
    assert (samples.count, samples.size) == (count, 256) and peak < 4 * 2**20


def test_identity_changes_with_the_files_and_not_otherwise(everywhere, tmp_path):
    for name in ("images.npz", "png", "images.tar"):
        assert open_samples(everywhere / name).identity == open_samples(everywhere / name).identity
    folder = write_folder(tmp_path / "a", {"a.png": encoded(IMAGES[0]), "b.png": encoded(IMAGES[1])})
    seen = {open_samples(folder).identity}
    (folder / "scores.json").write_text("{}")
    assert open_samples(folder).identity in seen, "a score beside the images is none of them"
    os.utime(folder / "a.png", ns=(1, 1))
    seen.add(open_samples(folder).identity)
    (folder / "b.png").rename(folder / "c.png")
    seen.add(open_samples(folder).identity)
    write_folder(folder, {"d.png": encoded(IMAGES[2])})
    seen.add(open_samples(folder).identity)
    assert len(seen) == 4


# -------------------------------------------------------------------------------------------------------- broken arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "holds images, not arr_0"),
        (
            {"mu": LABELS, "sigma": IMAGES},
            r"holds mu, sigma: statistics of a reference, no images .*; give it as refer",
        ),
        ({"arr_0": np.full((2, 8, 8, 3), np.nan)}, "float64 and holds NaN"),
        ({"arr_0": IMAGES.astype(np.int64)}, r"int64 \[70, 8, 8, 3\]; expected uint8"),
        ({"arr_0": IMAGES.astype(np.longdouble)}, r"expected uint8 or float"),
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2).copy()}, "move the channels last"),
        ({"arr_0": IMAGES[0]}, r"uint8 \[8, 8, 3\]; expected"),
        ({"arr_0": IMAGES[:0]}, "holds no images"),
        ({"arr_0": IMAGES[:, :4]}, "holds 4x8 images; scores need square .*resize=adm .*size=4"),
        ({"arr_0": IMAGES.transpose(0, 2, 1, 3)[:, :, ::-1].copy("F")}, "Fortran order"),
        ({"arr_0": IMAGES, "arr_1": LABELS[:5]}, "70 images but 5 labels"),
        ({"arr_0": IMAGES, "arr_1": LABELS / 2}, r"arr_1 of .* are float64 \[70\]; expected int64"),
    ],
)
def test_wrong_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as e:
        open_samples(tmp_path / "a.npz")
    assert "\n" not in str(e.value)


def test_missing_and_unknown(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images at"):
        open_samples(tmp_path / "none.npz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"neither .npz, .npy, .zip, .tar nor a folder"):
        open_samples(tmp_path / "a.txt")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz(tmp_path, save):
    save(tmp_path / "a.npz", IMAGES)
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut.npz is damaged or was cut off"):
        open_samples(tmp_path / "cut.npz")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"flipped.npz is damaged"):
        pixels(open_samples(tmp_path / "flipped.npz"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("count", [1, 64, 70])
def test_a_wrong_checksum_is_met_at_the_last_image_at_latest(tmp_path, compression, count):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("arr_0.npy", npy(IMAGES[:count]))
        archive.infolist()[0].CRC ^= 1  # the directory is written when the file is closed
    with pytest.raises(ValueError, match="a.npz is damaged"):
        pixels(open_samples(path))


def test_damaged_npy(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    samples = open_samples(tmp_path / "a.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-300])
    with pytest.raises(ValueError, match="cut off at image 68 of 70"):
        open_samples(tmp_path / "cut.npy")
    (tmp_path / "cut.npy").rename(tmp_path / "a.npy")  # cut after it was opened
    with pytest.raises(ValueError, match="cut off at image 66 of 70"):
        samples.read(np.arange(66, 70))
    (tmp_path / "text.npy").write_text("hello, I am not an array")
    with pytest.raises(ValueError, match="holds no readable numpy array"):
        open_samples(tmp_path / "text.npy")


def test_a_zip_member_shorter_than_its_header_says(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (9, 8, 8, 3)})
    write_zip(tmp_path / "a.npz", {"arr_0.npy": header.getvalue() + bytes(100)})
    with pytest.raises(ValueError, match="cut off at image 0 of 9"):
        open_samples(tmp_path / "a.npz")
