"""The pyramid tokenizer and its Lift: quantisers unlike VAR's are told from it, and what a generator relies on.

That the Lift agrees with the recorded one is checked by systems/var_vqvae.py.
"""

from __future__ import annotations

from math import prod

import pytest
import torch
import torch.nn.functional as F

from pointillist import CodeSpec
from pointillist.tokenizers import pyramid
from pointillist.tokenizers.multiscale import ticks
from pointillist.tokenizers.pyramid import Lift
from pointillist.tokenizers.quantizers import nearest
from pointillist.zoo.taming import var_vqvae
from tests.golden_files import HERE, recorded

RECORDED = recorded(HERE / "golden" / "var_vqvae")
CASES = RECORDED.cases
OBLONG = CodeSpec(grids=((1, 1), (1, 2), (3, 4), (4, 6)), vocab=(13,), channels=5)


def published() -> pyramid.Tokenizer:
    """A tokenizer of the recorded sizes whose codebook and phi are those of the published code."""
    options = pyramid.Options(widths=[16, 16], blocks=1, sides=[1, 2, 3, 4], vocab=64, channels=8)
    tokenizer, weights = pyramid.Tokenizer(options, 16), var_vqvae(RECORDED.weights, {})
    tokenizer.lift.load_state_dict({k[5:]: v for k, v in weights.items() if k.startswith("lift.")})
    return tokenizer.eval().requires_grad_(False)


def random_lift(spec: CodeSpec = OBLONG) -> Lift:
    torch.manual_seed(0)
    lift = Lift(spec).double().requires_grad_(False)
    for conv in lift.phi:
        torch.nn.init.normal_(conv.weight, std=0.3)
    return lift


def random_codes(spec: CodeSpec = OBLONG, count: int = 3) -> torch.Tensor:
    return torch.randint(spec.vocab[0], (count, spec.length), generator=torch.Generator().manual_seed(1))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-6, rtol=1e-6)


# --------------------------------------------------------------------------------------------------- the published code


def test_the_controls_differ(monkeypatch):
    lift, codes, wanted = published().lift, CASES["decode.codes"], CASES["decode.var_input"]
    assert close(lift.inputs(codes)[:, 1:], wanted)
    lift.ticks = [0, 1, 1, 3]  # one wrong phi, of a scale before the last
    assert not torch.allclose(lift.inputs(codes)[:, 1:], wanted, atol=1e-2)
    lift.ticks = [0, 1, 2, 2]  # the last scale's: no input reads it, f_hat does
    assert close(lift.inputs(codes)[:, 1:], wanted)
    assert not torch.allclose(lift.f_hat(codes), CASES["decode.fhat_per_scale"][-1], atol=1e-2)
    lift.ticks = [0, 1, 2, 3]
    interpolate = F.interpolate
    for wrong in ("bilinear", "nearest"):
        swap = {"bicubic": wrong, "area": "area"}
        monkeypatch.setattr(F, "interpolate", lambda x, size, mode, s=swap: interpolate(x, size=size, mode=s[mode]))
        assert not torch.allclose(lift.inputs(codes)[:, 1:], wanted, atol=1e-2)
    swap = {"bicubic": "bicubic", "area": "nearest"}
    monkeypatch.setattr(F, "interpolate", lambda x, size, mode: interpolate(x, size=size, mode=swap[mode]))
    assert not torch.allclose(lift.inputs(codes)[:, 1:], wanted, atol=1e-2)


def test_scales_share_phi_as_published():
    assert ticks(10) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]  # 256 and 512 pixels
    assert ticks(4) == [0, 1, 2, 3] and ticks(1) == [0]
    assert all(ticks(k)[k // 2] == 2 for k in (3, 5, 7, 9, 11)), "the middle's near-tie falls to the third"
    marks = torch.linspace(1 / 12, 11 / 12, 4)  # float32, the control: other ties
    assert [int((marks - k / 9).abs().argmin()) for k in range(10)] != ticks(10)


# ------------------------------------------------------------------------------------------ what a generator relies on


@pytest.mark.parametrize("k", range(4))
def test_inputs_of_a_scale_do_not_read_its_own_or_finer_codes(k):
    lift, codes = random_lift(), random_codes()
    begin = sum(prod(grid) for grid in OBLONG.grids[:k])
    end = begin + prod(OBLONG.grids[k])
    changed = codes.clone()
    changed[:, begin:] = (changed[:, begin:] + 1) % 13
    assert torch.equal(lift.inputs(changed)[:, :end], lift.inputs(codes)[:, :end])
    if k + 1 < len(OBLONG.grids):
        assert not torch.equal(lift.inputs(changed)[:, end:], lift.inputs(codes)[:, end:]), "the control"


def test_inputs_are_sums_of_coarser_scales_in_raster_order():
    lift, codes = random_lift(), random_codes()
    assert lift.inputs(codes).shape == (3, 39, 5) and lift.f_hat(codes).shape == (3, 5, 4, 6)
    coarser = sum(lift.add(codes, k) for k in range(3))  # [B, C, 4, 6]
    assert torch.allclose(lift.inputs(codes)[:, -24:].unflatten(1, (4, 6))[:, 2, 5], coarser[:, :, 2, 5])
    assert torch.allclose(lift.f_hat(codes) - coarser, lift.add(codes, 3))


def test_a_lift_is_rebuilt_from_the_spec_and_its_weights():
    tokenizer = published()
    again = Lift(CodeSpec.from_dict({**vars(tokenizer.spec)}))
    again.load_state_dict(tokenizer.lift.state_dict())
    codes = CASES["decode.codes"]
    assert torch.equal(again.inputs(codes), tokenizer.lift.inputs(codes))
    assert torch.equal(tokenizer.decode(codes), tokenizer.decoder(again.f_hat(codes)).clamp(-1, 1))
    assert sum(v.numel() for v in again.state_dict().values()) == 64 * 8 + 4 * (8 * 8 * 9 + 8)


# ------------------------------------------------------------------------------------------------------------- training


def test_the_codebook_follows_the_mean_of_its_vectors():
    torch.manual_seed(0)
    tokenizer = published()
    tokenizer.dead = 0.0
    centres = torch.randn(64, 8) * 3
    for _ in range(1500):
        codes = torch.randint(64, (512,))
        tokenizer._update(centres[codes] + 0.1 * torch.randn(512, 8), codes)
    assert (tokenizer.lift.codebook - centres).abs().max() < 0.06


def test_dead_codes_restart_from_the_batch():
    torch.manual_seed(0)
    tokenizer, z = published(), torch.randn(3, 8).repeat(200, 1) + 5
    tokenizer.lift.codebook.fill_(-5.0)  # collapsed: all codes the same, and far
    for _ in range(100):
        tokenizer._update(z, nearest(z, tokenizer.lift.codebook))
    assert (z - tokenizer.lift.codebook[nearest(z, tokenizer.lift.codebook)]).abs().max() < 1e-3


def test_the_loss_reaches_encoder_decoder_and_phi():
    tokenizer = published().train().requires_grad_(True)
    tokenizer.loss(torch.rand(4, 3, 16, 16) * 2 - 1)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())


def test_what_is_no_pyramid_is_refused():
    for spec in (CodeSpec(((4, 4),), (8, 8), 4), CodeSpec(((9,),), (8,), 4), CodeSpec(((2, 2), (1, 4)), (8,), 4)):
        with pytest.raises(ValueError, match="a pyramid needs one book and grids"):
            Lift(spec)
    with pytest.raises(ValueError, match=r"must be \[B, 39\], got \(3, 38\)"):
        random_lift().f_hat(random_codes()[:, :38])
    for sides in ([1, 2], [2, 1, 4], [0, 4], []):
        with pytest.raises(ValueError, match="tokenizer.sides must rise from at least 1 to the grid's side 4, got"):
            pyramid.Tokenizer(pyramid.Options(sides=sides), 16)
    with pytest.raises(ValueError, match="vocab=1000 needs as many vectors to start from, the data give 21"):
        pyramid.Tokenizer(pyramid.Options(sides=[1, 2, 4]), 16).fit(torch.zeros(1, 3, 16, 16))
