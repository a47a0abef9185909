"""Quantisers, what every tokenizer keeps to, folded and continuous codes, the k-means floor."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch
from PIL import Image

from pointillist import CodeSpec
from pointillist.configs.options import choices, find
from pointillist.data.codes import open_codes
from pointillist.data.crops import Views
from pointillist.data.encode import code_shape
from pointillist.data.images import Images, to_uint8
from pointillist.tokenizers import conv, latent, network, patches
from pointillist.tokenizers.quantizers import FSQ, VQ, Product
from pointillist.training.tasks.tokenizer import code_statistics


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


SMALL = {"widths": [16, 32], "blocks": 1}
TOYS = {
    "conv": {**SMALL, "levels": [4, 4, 4]},
    "conv, vq": {**SMALL, "quantizer": "vq", "vocab": 64, "channels": 4},
    "conv, two books": {**SMALL, "levels": [4, 3], "books": 2},
    "conv, vq, three books": {**SMALL, "quantizer": "vq", "vocab": 16, "channels": 2, "books": 3},
    "latent": {**SMALL, "channels": 3},
    "patches": {"vocab": 16},
    "pyramid": {**SMALL, "sides": [1, 2, 4], "vocab": 64, "channels": 4},
    "vqgan": {"mult": [1, 1, 1], "z": 16, "vocab": 64, "channels": 4},
    "vqvae": {"mult": [1, 1, 1], "z": 4, "sides": [1, 2, 4], "vocab": 64, "channels": 4},
}


def toy(name: str):
    """A small random tokenizer for 16x16 images."""
    torch.manual_seed(0)
    module = find("tokenizers", name.split(",")[0])
    return module.Tokenizer(module.Options(**TOYS[name]), 16)


def point(tokenizer, codes: torch.Tensor) -> torch.Tensor:
    """What decode takes: of stochastic codes the mean."""
    return codes.chunk(2, -1)[0] if tokenizer.spec.stochastic else codes


def test_every_tokenizer_has_a_toy():
    assert {name.split(",")[0] for name in TOYS} == set(choices("tokenizers"))


@pytest.mark.parametrize("name", TOYS)
def test_every_tokenizer_keeps_the_protocol(name):
    tokenizer = toy(name).eval()
    images, spec = pictures(6), tokenizer.spec
    if hasattr(tokenizer, "fit"):
        tokenizer.fit(images)
    with torch.no_grad():
        codes = tokenizer.encode(images)
        decoded = tokenizer.decode(point(tokenizer, codes))
        assert codes.shape == (6, *code_shape(spec))
        if spec.vocab:
            assert codes.dtype == torch.int64 and codes.min() >= 0
            assert (codes.view(6, spec.length, -1) < torch.tensor(spec.vocab)).all()
        assert decoded.shape == images.shape and decoded.abs().max() <= 1
        alone = tokenizer.encode(images[2:3])
        assert torch.allclose(alone, codes[2:3], atol=1e-5), "an image's codes do not depend on its batch"


@pytest.mark.parametrize("name", [name for name in TOYS if name != "patches"])
def test_a_cpu_takes_large_images_one_at_a_time(name, monkeypatch):
    """The networks see one image a pass, channels last; images do not depend on their batch, to the last bit. With
    gradients they see the whole batch, and make the same of it but for rounding."""
    tokenizer, seen = toy(name).eval(), []
    images = pictures(5)
    for part in (tokenizer.encoder, tokenizer.decoder):
        first = next(m for m in part.modules() if isinstance(m, torch.nn.Conv2d))
        first.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    whole = tokenizer.encode(images)
    decoded = tokenizer.decode(point(tokenizer, whole.detach()))
    assert seen == [5, 5]
    monkeypatch.setattr(network, "TOGETHER", 1)
    with torch.inference_mode():
        codes = tokenizer.encode(images)
        found = tokenizer.decode(point(tokenizer, codes))
        assert seen[2:] == [1] * 10
        assert torch.allclose(codes.float(), whole.float(), atol=1e-5) and (found - decoded).abs().max() < 1e-5
        assert torch.equal(tokenizer.decode(point(tokenizer, codes[3:4])), found[3:4]) and found.is_contiguous()


@pytest.mark.parametrize("name", [name for name in TOYS if name != "patches"])
def test_a_decoder_in_bfloat16_makes_float32_images_of_the_same_vectors(name):
    tokenizer = toy(name).eval().requires_grad_(False)
    codes, seen = point(tokenizer, tokenizer.encode(pictures(3))), []
    tokenizer.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    exact = tokenizer.decode(codes)
    tokenizer.decoder.to(torch.bfloat16)
    rounded = tokenizer.decode(codes)
    assert torch.equal(*seen) and seen[1].dtype == torch.float32, "what is decoded is not rounded before"
    assert rounded.dtype == torch.float32 and 0 < (rounded - exact).abs().max() < 0.15  # of a deviation of 0.3


def test_one_book_is_the_plain_quantiser():
    plain, one = toy("conv"), conv.Tokenizer(conv.Options(**TOYS["conv"], books=1), 16)
    assert isinstance(one.quantizer, FSQ) and plain.state_dict().keys() == one.state_dict().keys()
    assert plain.spec == CodeSpec(grids=((4, 4),), vocab=(64,), channels=3)
    assert toy("conv, two books").spec == CodeSpec(grids=((4, 4),), vocab=(12, 12), channels=4)


def test_each_book_of_a_product_sees_its_own_channels():
    product, z = Product([FSQ([4, 3]), FSQ([5, 5, 5])]), torch.randn(6, 7, 5)
    vectors, codes, loss = product(z)
    assert codes.shape == (6, 7, 2) and loss == 0
    assert torch.equal(codes[..., 0], product.books[0](z[..., :2])[1])
    assert torch.equal(codes[..., 1], product.books[1](z[..., 2:])[1])
    assert torch.allclose(product.embed(codes), vectors)
    with pytest.raises(ValueError, match=r"codes must be \[..., 2\], one a book, got \(6, 7, 3\)"):
        product.embed(torch.zeros(6, 7, 3, dtype=torch.long))


def test_books_start_and_learn_apart():
    tokenizer = toy("conv, vq, three books")
    tokenizer.fit(pictures(32))
    books = [book.codebook for book in tokenizer.quantizer.books]
    before = [book.clone() for book in books]
    assert not torch.equal(books[0], books[1])
    tokenizer.loss(pictures(32))
    assert all(not torch.equal(a, b) for a, b in zip(before, books, strict=True))


def test_latent_codes_have_unit_variance_and_decode_undoes_it():
    tokenizer, images = toy("latent"), pictures(64)
    with torch.no_grad():
        tokenizer.encoder[-1].weight.mul_(7)  # an encoder of another scale and centre
        tokenizer.encoder[-1].bias[:3].add_(3)
        for _ in range(600):
            tokenizer._measure(tokenizer._posterior(images)[0])
        tokenizer.eval()
        mean, std = tokenizer.encode(images).chunk(2, -1)
        raw, raw_std = tokenizer._posterior(images)
        assert (mean.std((0, 1)) - 1).abs().max() < 0.02 and mean.mean((0, 1)).abs().max() < 0.02
        assert (raw.std((0, 2, 3)) - 1).abs().max() > 0.1, "the control: the encoder's own scale is another"
        assert torch.allclose(std * tokenizer.variance.sqrt().flatten(), raw_std.flatten(2).mT, atol=1e-5)
        assert torch.allclose(tokenizer.decode(mean), tokenizer.decoder(raw).clamp(-1, 1), atol=1e-4)


def test_latent_codes_pass_through_the_cache(tmp_path):
    pixels, tokenizer = to_uint8(pictures(9)).permute(0, 2, 3, 1).numpy(), toy("latent").eval()
    images = Images("toy", ("a",), np.zeros(9, np.int64), (), "f" * 64, lambda i: Image.fromarray(pixels[i]))
    identity, views = {"name": "toy", "sha256": "0" * 64}, Views(16, "center", flip=False)
    codes = open_codes(tmp_path / "c", tokenizer, identity, images, views, progress=False)
    assert codes.spec == tokenizer.spec and codes.view(0).shape == (9, 16, 6)
    mean, std = codes.view(0).chunk(2, -1)
    batches = [codes.batch(step, 9, 0) for step in range(400)]
    draws = torch.stack([batch["codes"][batch["index"].argsort()] for batch in batches])
    assert draws.shape[1:] == (9, 16, 3) and draws.dtype == torch.float32
    assert ((draws.mean(0) - mean) / std).abs().max() < 0.3 and (draws.std(0) / std - 1).abs().max() < 0.2
    assert tokenizer.decode(draws[0]).shape == (9, 3, 16, 16)


def test_latent_refuses_codes_of_another_shape():
    for shape in [(2, 16, 6), (2, 15, 3), (2, 3, 4, 4)]:
        with pytest.raises(ValueError, match=r"codes must be \[B, 16, 3\], got \(2, "):
            toy("latent").decode(torch.zeros(shape))
    with pytest.raises(ValueError, match="channels must be at least 1 and kl at least 0, got 3, -1"):
        latent.Tokenizer(latent.Options(channels=3, kl=-1), 16)


def test_code_statistics_of_each_kind_of_code():
    codes = torch.tensor([[[0, 0], [1, 0]], [[2, 0], [3, 0]]])  # book 0 uses 4 of 8 evenly, book 1 one of 4
    found = code_statistics(codes, CodeSpec(((2,),), (8, 4), 2))
    assert found == {"usage": pytest.approx(3 / 8), "perplexity": pytest.approx(exp((log(4) + 0) / 2))}
    assert code_statistics(codes[..., 0], CodeSpec(((2,),), (8,), 2))["perplexity"] == pytest.approx(4)
    torch.manual_seed(0)
    codes = torch.cat([0.6 * torch.randn(500, 4, 8), torch.full((500, 4, 8), 0.8)], -1)
    found = code_statistics(codes, CodeSpec(((4,),), (), 8, stochastic=True))
    kl = 0.5 * (0.36 + 0.64 - 1 - 2 * log(0.8))
    assert found["latent_std"] == pytest.approx(1, abs=0.02) and found["noise_std"] == pytest.approx(0.8)
    assert found["kl"] == pytest.approx(kl, abs=0.01)
    assert code_statistics(codes[..., :8], CodeSpec(((4,),), (), 8)) == {"latent_std": pytest.approx(0.6, abs=0.02)}


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


@pytest.mark.parametrize("name", [name for name in TOYS if name != "patches"])
def test_a_few_steps_of_training_beat_the_mean_image(name):
    tokenizer, images = toy(name), pictures(32)
    if hasattr(tokenizer, "fit"):
        tokenizer.fit(images)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        tokenizer.loss(images)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        tokenizer.eval()
        codes = tokenizer.encode(images)
        error = (tokenizer.decode(point(tokenizer, codes)) - images).square().mean()
    assert error < 0.5 * images.var(0).mean()


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="image size divisible by 4, got 18"):
        conv.Tokenizer(conv.Options(), 18)
    with pytest.raises(ValueError, match="tokenizer.patch must divide the image size 16, got 5"):
        patches.Tokenizer(patches.Options(patch=5), 16)
    with pytest.raises(ValueError, match="tokenizer.books must be at least 1, got 0"):
        conv.Tokenizer(conv.Options(books=0), 16)
