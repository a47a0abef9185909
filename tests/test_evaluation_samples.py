"""Reading what is to be scored: npz, npy and folders give the same batches; every broken input is one clear line."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pointillist.evaluation.samples import open_samples

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), np.uint8)
LABELS = np.arange(70) % 5


def pixels(samples):
    return torch.cat(list(samples.batches())).permute(0, 2, 3, 1).numpy()


def test_npz_npy_and_folder_hold_the_same_images(tmp_path):
    np.savez(tmp_path / "images.npz", IMAGES, LABELS)
    np.savez_compressed(tmp_path / "small.npz", arr_0=IMAGES)
    np.save(tmp_path / "images.npy", IMAGES)
    folder = tmp_path / "png"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    (folder / "scores.json").write_text("{}")  # of an earlier run
    for path in ("images.npz", "small.npz", "images.npy", "png", "."):  # "." is a run's folder: it holds images.npz
        samples = open_samples(tmp_path / path)
        assert (samples.count, samples.size, samples.lossy) == (70, 8, False)
        np.testing.assert_array_equal(pixels(samples), IMAGES)
        np.testing.assert_array_equal(pixels(samples), IMAGES)  # batches() starts afresh
    samples = open_samples(tmp_path / "images.npz")
    assert samples.labels.dtype == np.int64 and samples.labels.tolist() == LABELS.tolist()
    assert open_samples(folder).folder == folder and open_samples(tmp_path).folder == tmp_path


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "holds images, not arr_0"),
        ({"arr_0": IMAGES.astype(np.float32)}, "float32 and starts with values 0..255; round the images"),
        ({"arr_0": np.full((2, 8, 8, 3), np.nan)}, "float64 and holds NaN"),
        ({"arr_0": IMAGES.astype(np.int64)}, r"int64 \[70, 8, 8, 3\]; expected uint8"),
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2).copy()}, "move the channels last"),
        ({"arr_0": IMAGES[0]}, r"uint8 \[8, 8, 3\]; expected"),
        ({"arr_0": IMAGES[:0]}, "holds no images"),
        ({"arr_0": IMAGES[:, :4]}, "holds 4x8 images; scores need square"),
        ({"arr_0": IMAGES.transpose(0, 2, 1, 3)[:, :, ::-1].copy("F")}, "Fortran order"),
        ({"arr_0": IMAGES, "arr_1": LABELS[:5]}, "70 images but 5 labels"),
        ({"arr_0": IMAGES, "arr_1": LABELS / 2}, r"arr_1 of .* are float64 \[70\]; expected int64"),
    ],
)
def test_wrong_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_samples(tmp_path / "a.npz")


def test_missing_and_unknown(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images at"):
        open_samples(tmp_path / "none.npz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"neither .npz, .npy nor a folder"):
        open_samples(tmp_path / "a.txt")


def test_damaged_files(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut.npz is damaged or was cut off"):
        open_samples(tmp_path / "cut.npz")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"flipped.npz is damaged"):
        pixels(open_samples(tmp_path / "flipped.npz"))
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut off at image 64 of 70"):
        pixels(open_samples(tmp_path / "cut.npy"))
    (tmp_path / "text.npy").write_text("hello, I am not an array")
    with pytest.raises(ValueError, match="holds no readable numpy array"):
        open_samples(tmp_path / "text.npy")


def test_a_zip_member_shorter_than_its_header_says(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (9, 8, 8, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(100))
    with pytest.raises(ValueError, match="cut off at image 0 of 9"):
        pixels(open_samples(tmp_path / "a.npz"))


def folder_of(tmp_path, **files):
    for name, image in files.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return tmp_path


def test_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        open_samples(tmp_path)
    folder_of(tmp_path, a=IMAGES[0], b=IMAGES[1][:4, :4])
    with pytest.raises(ValueError, match=r"b.png is 4x4 but a.png is 8x8"):
        pixels(open_samples(tmp_path))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot read image .*b.png .not an image"):
        pixels(open_samples(tmp_path))
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="its mode is RGBA, expected RGB"):
        pixels(open_samples(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes.txt is not an image"):
        open_samples(tmp_path)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "cats").mkdir()
    with pytest.raises(ValueError, match="cats is a folder"):
        open_samples(tmp_path)
