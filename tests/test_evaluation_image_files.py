"""Image files in folders, zips and tars: classes, lossy compression, and every broken file as one clear line."""

import numpy as np
import pytest
from PIL import Image

from pointillist.evaluation.samples import open_samples
from tests.containers import IMAGES, WRITERS, encoded, pixels, write_folder, write_tar, write_zip

# -------------------------------------------------------------------------------------------------------- class folders


@pytest.mark.parametrize("where", WRITERS)
@pytest.mark.parametrize("above", ["", "val/"])
def test_class_folders_give_labels(tmp_path, where, above):
    """2 comes before 10, as data=folder numbers classes; within a class, names decide."""
    names = ["10/b.png", "2/c.png", "2/a.png", "10/a.png", "1/z.png"]
    files = {f"{above}{name}": encoded(IMAGES[i]) for i, name in enumerate(names)}
    samples = open_samples(WRITERS[where](tmp_path / where, files))
    assert samples.labels.tolist() == [0, 1, 1, 2, 2] and samples.labels.dtype == np.int64
    np.testing.assert_array_equal(pixels(samples), IMAGES[[4, 2, 1, 3, 0]])


def test_class_folders_are_numbered_as_in_training(tmp_path):
    from pointillist.data.folder import folder_listing

    files = {f"{name}/{i}.png": encoded(IMAGES[i]) for i, name in enumerate(["n2", "N10", "a", "n1", "B 3"])}
    write_folder(tmp_path, files)
    assert open_samples(tmp_path).labels.tolist() == sorted(folder_listing(tmp_path).labels)
    order = [p.parent.name for p in map(tmp_path.joinpath, files)]
    classes = dict(zip(folder_listing(tmp_path).ids, folder_listing(tmp_path).labels.tolist(), strict=True))
    numbers = [classes[name] for name in files]
    assert sorted(order, key=lambda name: numbers[order.index(name)]) == ["a", "B 3", "n1", "n2", "N10"]


def test_one_folder_in_an_archive_is_no_class(tmp_path):
    path = write_zip(tmp_path / "x.zip", {f"samples/{i}.png": encoded(IMAGES[i]) for i in range(3)})
    assert open_samples(path).labels is None


@pytest.mark.parametrize("names", [("a.png", "x/b.png"), ("x/a.png", "x/y/b.png"), ("x/u/a.png", "y/v/b.png")])
@pytest.mark.parametrize("where", WRITERS)
def test_folders_that_are_no_classes(tmp_path, where, names):
    path = WRITERS[where](tmp_path / where, {name: encoded(IMAGES[0]) for name in names})
    with pytest.raises(ValueError, match=r"both hold images but do not lie beside each other; use one folder, or one"):
        open_samples(path)


# ---------------------------------------------------------------------------------------------------------- lossy files


@pytest.mark.parametrize("where", WRITERS)
def test_lossy_files_are_counted_by_content(tmp_path, where):
    profile = {"icc_profile": b"x" * 101}  # puts other chunks before the picture
    files = {
        "a.png": encoded(IMAGES[0]),
        "b.png": encoded(IMAGES[1], "JPEG"),  # lossy, whatever it is called
        "c.jpg": encoded(IMAGES[2], "JPEG"),
        "d.jpg": encoded(IMAGES[3]),  # and this one is not
        "e.webp": encoded(IMAGES[4], "WEBP"),
        "f.webp": encoded(IMAGES[5], "WEBP", lossless=True),
        "g.webp": encoded(IMAGES[6], "WEBP", **profile),
        "h.webp": encoded(IMAGES[7], "WEBP", lossless=True, **profile),
    }
    assert files["g.webp"][12:16] == files["h.webp"][12:16] == b"VP8X"
    assert open_samples(WRITERS[where](tmp_path / where, files)).lossy == 4


# --------------------------------------------------------------------------------------------------------- broken files

GOOD = encoded(IMAGES[0])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("b.png", encoded(IMAGES[1][:4, :4]), r"b.png is 4x4 but a.png is 8x8; scores need .*resize=adm .*size=4"),
        ("b.jpg", encoded(IMAGES[1][:4, :4], "JPEG"), r"b.jpg is 4x4 but a.png is 8x8"),
        ("0.png", encoded(IMAGES[1][:4]), r"0.png is 4x8; scores need square"),
        ("b.png", b"no picture", r"cannot read image .*b.png .not an image"),
        ("b.png", b"", r"cannot read image .*b.png .not an image"),
        ("b.png", GOOD[:-40], r"cannot read image .*b.png .*truncated"),
        ("b.png", encoded(np.zeros((8, 8, 4), np.uint8)), "b.png .its mode is RGBA, expected RGB"),
        ("b.png", encoded(np.zeros((8, 8), np.uint16)), "b.png .it has 16 bits a channel, expected 8"),
        ("notes.txt", b"x", r"notes.txt is not an image .*keep only the images to score in"),
        ("dataset.json", b"{}", r"dataset.json is not an image"),
    ],
)
@pytest.mark.parametrize("where", WRITERS)
def test_wrong_image_files(tmp_path, where, name, data, message):
    path = WRITERS[where](tmp_path / where, {"a.png": GOOD, name: data})
    with pytest.raises(ValueError, match=message) as e:
        pixels(open_samples(path))
    assert "\n" not in str(e.value) and where in str(e.value)


def test_png_sizes_are_compared_before_anything_is_scored(tmp_path):
    write_folder(tmp_path, {"a.png": GOOD, "b.png": encoded(IMAGES[1][:4, :4])})
    with pytest.raises(ValueError, match="b.png is 4x4 but"):
        open_samples(tmp_path)


def test_no_images_and_damaged_archives(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        open_samples(tmp_path)
    path = write_zip(tmp_path / "a.zip", {"a.png": GOOD, "b.png": GOOD})
    data = bytearray(path.read_bytes())
    (tmp_path / "cut.zip").write_bytes(data[:-30])
    with pytest.raises(ValueError, match="cut.zip is damaged or was cut off"):
        open_samples(tmp_path / "cut.zip")
    data[60] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a.png of .*a.zip is damaged"):
        open_samples(path)
    path = write_tar(tmp_path / "a.tar", {"a.png": GOOD, "b.png": GOOD})
    path.write_bytes(path.read_bytes()[: 1536 + 20])
    with pytest.raises(ValueError, match="a.tar .*unexpected end of data"):
        open_samples(path)


def test_grey_and_cmyk_files_are_read_as_rgb(tmp_path):
    write_folder(tmp_path, {"a.png": encoded(IMAGES[0, ..., 0])})
    Image.fromarray(IMAGES[1]).convert("CMYK").save(tmp_path / "b.jpg")
    got = pixels(open_samples(tmp_path))
    np.testing.assert_array_equal(got[0], IMAGES[0, ..., :1].repeat(3, -1))
    np.testing.assert_array_equal(got[1], np.asarray(Image.open(tmp_path / "b.jpg").convert("RGB")))


def test_compressed_tars(tmp_path):
    with pytest.raises(ValueError, match="compressed as a whole.*unpack it to a .tar"):
        open_samples(write_tar(tmp_path / "a.tar.gz", {"a.png": encoded(IMAGES[0])}, "w:gz"))
    disguised = write_tar(tmp_path / "b.tar", {"a.png": encoded(IMAGES[0])}, "w:gz")
    with pytest.raises(ValueError, match="not a plain tar"):
        open_samples(disguised)
