"""Emoji: counts, labels, white ground, and a split that no variant of an emoji crosses."""

import numpy as np
import pytest

from pointillist.data import emoji
from pointillist.data.emoji import Options, base, open_images


@pytest.fixture(scope="module")
def splits():
    return open_images(Options(), "train"), open_images(Options(), "heldout")


def test_counts_and_categories(splits):
    train, heldout = splits
    assert len(train) + len(heldout) == 1867
    assert len(train.classes) == 9 and "Component" not in train.classes
    for images in splits:
        assert images.labels.dtype == np.int64 and set(images.labels) == set(range(9))
        assert len(images.captions) == len(images)
    with_tones = Options(skin_tones=True)
    assert len(open_images(with_tones, "train")) + len(open_images(with_tones, "heldout")) == 3786


def test_labels_and_captions_are_those_of_the_picture(splits):
    found = {c: i.classes[label] for i in splits for c, label in zip(i.captions, i.labels, strict=True)}
    assert found["pineapple"] == "Food & Drink"
    assert found["france flag"] == "Flags" and "clipperton island flag" not in found
    assert found["rocket"] == "Travel & Places"


def test_pictures_lie_on_white_and_are_all_different(splits):
    for images in splits:
        pictures = [images.read(i) for i in range(len(images))]
        assert all(p.mode == "RGB" and p.size == (72, 72) for p in pictures)
        corners = np.array([p.getpixel((0, 0)) == (255, 255, 255) for p in pictures])
        assert corners.mean() > 0.9  # some pictures fill their square
    assert len({i.read(k).tobytes() for i in splits for k in range(len(i))}) == 1867


def test_variants_share_a_base():
    same = ["1f468-200d-1f680", "1f469-1f3fd-200d-1f680", "1f9d1-200d-1f680"]
    assert {base(p) for p in same} == {"1f680-1f9d1"}
    assert base("1f468-200d-1f9b0") == base("1f469") == "1f9d1"
    assert base("1f3c3-200d-2640-200d-27a1") == "1f3c3"
    assert base("1f468-200d-1f469-200d-1f467-200d-1f466") == base("1f46a")
    assert base("1f34d") != base("1f34e")


def test_no_variant_crosses_the_split():
    parts = []
    for split in ("train", "heldout"):
        images = open_images(Options(skin_tones=True), split)
        parts.append(set(images.captions))
    everything = emoji.emoji(True)
    train, heldout = ({base(e.points) for e in everything if e.caption in part} for part in parts)
    assert not train & heldout
    # Control: a split by file would tear variants apart.
    by_file = [{base(e.points) for e in everything if emoji.is_heldout(e.points, 0.15) == h} for h in (False, True)]
    assert len(by_file[0] & by_file[1]) > 100


def test_split_is_stable(splits):
    # Recorded: a changed split would make every published held-out score incomparable.
    train, heldout = splits
    assert (len(train), len(heldout)) == (1580, 287)
    assert open_images(Options(), "heldout").fingerprint == heldout.fingerprint != train.fingerprint
    # An emoji stays held out when the fraction grows or tones are added.
    assert set(heldout.captions) <= set(open_images(Options(heldout=0.3), "heldout").captions)
    assert set(heldout.captions) <= set(open_images(Options(skin_tones=True), "heldout").captions)


def test_bad_fraction():
    with pytest.raises(ValueError, match=r"heldout=1\.5 must be"):
        open_images(Options(heldout=1.5), "train")
    with pytest.raises(ValueError, match="leaves no emoji for heldout"):
        open_images(Options(heldout=0.0), "heldout")
