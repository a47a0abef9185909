"""Quantisers, the convolutional tokenizer and the k-means floor."""

from __future__ import annotations

import pytest
import torch

from pointillist.configs.options import choices, find
from pointillist.tokenizers import conv, patches
from pointillist.tokenizers.quantizers import FSQ, VQ


def pictures(count: int, size: int = 16) -> torch.Tensor:
    """Smooth random images in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").clamp(-1, 1)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [4, 3], [2, 2, 2]])
def test_fsq_codes_and_vectors_are_one_to_one(levels):
    fsq = FSQ(levels)
    codes = torch.arange(fsq.vocab)
    vectors = fsq.embed(codes)
    assert len(vectors.unique(dim=0)) == fsq.vocab and vectors.abs().max() <= 1
    level, half = fsq.level, fsq.level // 2
    inner = torch.atanh(((vectors * half + fsq.offset) / fsq.radius).clamp(-0.999999, 0.999999))
    z = inner - torch.atanh(fsq.offset / fsq.radius)
    quantised, found, loss = fsq(z)
    assert torch.equal(found, codes) and torch.allclose(quantised, vectors, atol=1e-6) and loss == 0
    assert int(found[-1]) == int(level.prod()) - 1


def test_fsq_digits_are_mixed_radix_with_channel_zero_least_significant():
    assert torch.allclose(FSQ([8, 5, 5, 5]).embed(torch.tensor([1])), torch.tensor([[-0.75, -1, -1, -1]]))
    assert torch.allclose(FSQ([8, 5, 5, 5]).embed(torch.tensor([8])), torch.tensor([[-1, -0.5, -1, -1]]))


def test_gradients_pass_straight_through():
    z = torch.zeros(4, 3, requires_grad=True)
    FSQ([5, 5, 5])(z)[0].sum().backward()
    assert (z.grad > 0).all()
    z = torch.randn(8, 4, requires_grad=True)
    VQ(16, 4)(z)[0].square().sum().backward()
    assert z.grad is not None and torch.isfinite(z.grad).all()


def test_vq_finds_the_nearest_code_and_restarts_dead_ones():
    torch.manual_seed(0)
    vq = VQ(64, 4)
    z = torch.randn(500, 4)
    unit = torch.nn.functional.normalize(z, dim=-1)
    assert torch.equal(vq.eval()(z)[1], torch.cdist(unit, vq.codebook).argmin(-1))
    vq.train()
    clustered = torch.randn(3, 4).repeat(200, 1) + 0.05 * torch.randn(600, 4)
    vq.codebook.copy_(vq.codebook[:1].repeat(64, 1))  # collapsed: every code the same
    collapsed = vq.eval()(clustered)[1].unique().numel()
    vq.train()
    for _ in range(200):
        vq(clustered)
    assert collapsed == 1 and vq.eval()(clustered)[1].unique().numel() > 10


@pytest.mark.parametrize("name", choices("tokenizers"))
def test_every_tokenizer_keeps_the_protocol(name):
    module = find("tokenizers", name)
    options = module.Options(vocab=16) if name == "patches" else module.Options()
    torch.manual_seed(0)
    tokenizer = module.Tokenizer(options, 16).eval()
    images, spec = pictures(6), tokenizer.spec
    if hasattr(tokenizer, "fit"):
        tokenizer.fit(images)
    with torch.no_grad():
        codes = tokenizer.encode(images)
        decoded = tokenizer.decode(codes)
        assert codes.shape == (6, spec.length) and codes.dtype == torch.int64
        assert codes.min() >= 0 and codes.max() < spec.vocab[0]
        assert decoded.shape == images.shape and decoded.abs().max() <= 1
        assert torch.equal(tokenizer.encode(images[2:3]), codes[2:3]), "an image's codes do not depend on its batch"


def test_codes_are_in_raster_order():
    tokenizer = patches.Tokenizer(patches.Options(patch=4, vocab=4), 16)
    tokenizer.codebook.copy_(torch.tensor([-1.0, -0.3, 0.3, 1.0])[:, None].expand(-1, 48))
    image = torch.full((1, 3, 16, 16), -1.0)
    image[:, :, 4:8, 8:12] = 1.0  # row 1, column 2 of the 4x4 grid
    assert tokenizer.encode(image)[0].nonzero().flatten().tolist() == [6]
    assert torch.equal(tokenizer.decode(tokenizer.encode(image)), image)


def test_k_means_beats_random_patches():
    images = pictures(64)
    fitted = patches.Tokenizer(patches.Options(vocab=32), 16)
    fitted.fit(images)
    random = patches.Tokenizer(patches.Options(vocab=32), 16)
    random.codebook.copy_(fitted._patches(images).flatten(0, 1)[:32])
    errors = [(t.decode(t.encode(images)) - images).square().mean() for t in (fitted, random)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_a_few_steps_of_training_beat_the_mean_image(quantizer):
    torch.manual_seed(0)
    images = pictures(32)
    options = conv.Options(widths=[16, 32], blocks=1, quantizer=quantizer, levels=[4, 4, 4], vocab=64, channels=4)
    tokenizer = conv.Tokenizer(options, 16)
    tokenizer.fit(images)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        tokenizer.loss(images)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        error = (tokenizer.decode(tokenizer.encode(images)) - images).square().mean()
    assert error < 0.5 * images.var(0).mean()


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="image size divisible by 4, got 18"):
        conv.Tokenizer(conv.Options(), 18)
    with pytest.raises(ValueError, match="tokenizer.patch must divide the image size 16, got 5"):
        patches.Tokenizer(patches.Options(patch=5), 16)
