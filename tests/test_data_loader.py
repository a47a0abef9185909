"""batch(step) is a pure function; an epoch shows every image once."""

import numpy as np
import pytest
import torch
from PIL import Image

from pointillist.data import loader
from pointillist.data.crops import Views, view
from pointillist.data.images import Images, to_float, to_uint8
from pointillist.data.loader import ImageBatches, all_images, spread
from pointillist.data.order import draw, hash64, permutation, uniform


def numbered(n=23, size=40):
    """Image i holds the grey level i everywhere but for a bright left edge."""

    def read(i):
        a = np.full((size, size, 3), i, np.uint8)
        a[:, : size // 2] += 100
        return Image.fromarray(a)

    return Images("numbered", ("even", "odd"), np.arange(n) % 2, (), "0" * 64, read)


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_float_and_back_is_exact():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert floats.dtype == torch.float32 and floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), levels)
    assert to_uint8(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0, 128, 255]


def test_hash_is_stable_and_even():
    assert hash64(1, 2, 3).tolist() == [7702586659592502839]  # another value would change every order ever drawn
    draws = uniform(3, 1, np.arange(20000))
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("batch_size", [4, 23, 50])
def test_every_image_once_an_epoch(batch_size):
    n, steps = 23, 23 * 3
    index = np.concatenate([draw(s, batch_size, n, 5, seed=1)[0] for s in range(steps)])
    for epoch in index[: len(index) // n * n].reshape(-1, n):
        assert sorted(epoch) == list(range(n))
    first, second = index[:n], index[n : 2 * n]
    assert list(first) != list(second)
    assert list(first) != list(draw(0, n, n, 5, seed=2)[0])
    assert list(first) == list(permutation(n, 1, 0))


def test_views_are_drawn_evenly_and_anew_each_epoch():
    n = 1000
    _, first = draw(0, n, n, 4, 0)
    order, second = draw(1, n, n, 4, 0)
    assert np.bincount(first, minlength=4).min() > 200 and np.bincount(second, minlength=4).min() > 200
    by_image = np.empty((2, n), int)
    by_image[0, draw(0, n, n, 4, 0)[0]], by_image[1, order] = first, second
    assert 0.2 < (by_image[0] == by_image[1]).mean() < 0.3


@pytest.mark.parametrize("kept", [True, False])
def test_batch_is_pure(kept, monkeypatch):
    if not kept:
        monkeypatch.setattr(loader, "IN_MEMORY_BYTES", 0)
    images, views = numbered(), Views(16, "jitter", count=3)
    batches = ImageBatches(images, views, 8, seed=3)
    assert (batches.kept is not None) == kept
    forward = [batches.batch(s) for s in range(12)]
    again = ImageBatches(images, views, 8, seed=3)
    for s in (11, 0, 5, 5, 6, 2):  # any order, another object
        assert same(again.batch(s), forward[s])
    assert not same(ImageBatches(images, views, 8, seed=4).batch(0), forward[0])


def test_batch_holds_what_it_says(monkeypatch):
    images, views = numbered(), Views(16, "center")
    batch = ImageBatches(images, views, 23, seed=0).batch(0)
    assert batch["images"].dtype == torch.uint8 and batch["images"].shape == (23, 3, 16, 16)
    assert batch["labels"].dtype == batch["index"].dtype == torch.int64
    assert torch.equal(batch["labels"], batch["index"] % 2)
    _, k = draw(0, 23, 23, 2, 0)
    for row, i, v in zip(batch["images"], batch["index"].tolist(), k.tolist(), strict=True):
        assert np.array_equal(row.permute(1, 2, 0), view(images.read(i), views, v, 0, i))
    monkeypatch.setattr(loader, "IN_MEMORY_BYTES", 0)
    assert same(ImageBatches(images, views, 23, seed=0).batch(0), batch)


def test_images_are_decoded_once_when_kept():
    images, count = numbered(), []
    counted = Images("c", images.classes, images.labels, (), "", lambda i: count.append(i) or images.read(i))
    batches = ImageBatches(counted, Views(16, flip=False), 23, seed=0)
    for s in range(4):
        batches.batch(s)
    assert sorted(count) == list(range(23))


def test_all_images_and_limit():
    images = numbered()
    everything = all_images(images, Views(16))
    assert everything.dtype == torch.uint8 and everything.shape == (23, 3, 16, 16)
    assert everything[:, 0, 8, 15].tolist() == list(range(23))
    some = spread(23, 5)
    assert some.tolist() == [0, 4, 9, 13, 18]  # not the first five, which in sorted data are one class
    assert torch.equal(all_images(images, Views(16), 5), everything[some])
    assert spread(3, 5).tolist() == [0, 1, 2]


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        ImageBatches(numbered(0), Views(16), 8, 0)
