"""models/lean.py: the same values and gradients as the plain formulas, of less that is kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from pointillist.models import lean


def rms_norm(x, weight, eps=1e-5):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def silu_down(both, weight):
    a, b = both.chunk(2, dim=-1)
    return F.linear(F.silu(a) * b, weight)


def made(name: str, dtype=torch.float64):
    """Both forms, and what they are called with."""
    torch.manual_seed(0)
    weight = (8,) if name == "rms_norm" else (6, 4)
    arguments = [torch.randn(size, dtype=dtype, requires_grad=True) for size in ((2, 5, 8), weight)]
    eps = (1e-5,) if name == "rms_norm" else ()
    return (lambda *x: getattr(lean, name)(*x, *eps)), globals()[name], arguments


@pytest.mark.parametrize("name", ["rms_norm", "silu_down"])
def test_gradients_are_those_of_the_plain_formula(name):
    mine, plain, arguments = made(name)
    assert torch.allclose(mine(*arguments), plain(*arguments), rtol=0, atol=1e-12)
    assert gradcheck(mine, arguments)
    weights = torch.randn_like(plain(*arguments))
    wanted, found = (torch.autograd.grad((f(*arguments) * weights).sum(), arguments) for f in (plain, mine))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["rms_norm", "silu_down"])
def test_an_autocast_changes_no_more_than_it_does_to_the_plain_formula(name):
    mine, plain, arguments = made(name, torch.float32)
    exact = plain(*arguments)
    weights = torch.randn_like(exact)
    truth = torch.autograd.grad((exact * weights).sum(), arguments)
    errors = []
    for f in (plain, mine):
        with torch.autocast("cpu", torch.bfloat16):
            out = f(*arguments)
        found = torch.autograd.grad((out.float() * weights).sum(), arguments)
        assert all(a.dtype == torch.float32 for a in found)
        errors.append([out.dtype, *(float((a - b).norm()) for a, b in zip(found, truth, strict=True))])
    (kind, *theirs), (my_kind, *mine) = errors
    assert kind == my_kind and all(a <= 1.5 * b + 1e-5 for a, b in zip(mine, theirs, strict=True))


def test_bf16_weights_and_states_keep_their_dtype():
    mine, plain, arguments = made("rms_norm", torch.bfloat16)
    out = mine(*arguments)
    found = torch.autograd.grad(out.sum(), arguments)
    assert out.dtype == torch.bfloat16 and {x.dtype for x in found} == {torch.bfloat16}
    assert torch.allclose(out, plain(*arguments), atol=0.05)


def test_what_is_kept_is_less():
    kept = {}
    for name in ("rms_norm", "silu_down"):
        mine, plain, arguments = made(name)
        own = {x.untyped_storage().data_ptr() for x in arguments}
        for f in (mine, plain):
            sizes: dict[int, int] = {}

            def keep(x, sizes=sizes, own=own):
                if x.untyped_storage().data_ptr() not in own:
                    sizes[x.untyped_storage().data_ptr()] = x.numel()
                return x

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                out = f(*arguments)
            kept[name, f is mine] = sum(sizes.values())
            del out
    assert kept["rms_norm", True] == 2 * 5 and kept["silu_down", True] == 0, "a number a row, and nothing"
    assert kept["rms_norm", False] >= 2 * 5 * 8 and kept["silu_down", False] >= 2 * 5 * 4


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_drops_the_share(p):
    drop, x = lean.Dropout(p), torch.ones(1001, 997, requires_grad=True)
    torch.manual_seed(0)
    y = drop(x)
    values = y.detach().double()
    share = float((values == 0).double().mean())
    assert abs(share - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-16
    assert abs(float(values.mean()) - 1) < 2e-3
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, y), "the gradient passes where x did"
    torch.manual_seed(0)
    assert torch.equal(drop(x), y)
    assert not torch.equal(drop(x), y)
    dropped = (y == 0).double() - p
    for shift in (1, 2, 3, 4, 997):
        beside = dropped.flatten()
        assert abs(float((beside[:-shift] * beside[shift:]).mean())) < 5 * p * (1 - p) / x.numel() ** 0.5
    assert drop.eval()(x) is x
