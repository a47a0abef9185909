"""What saves memory in training changes no gradient: chunked cross-entropy, checkpointed and compiled blocks."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pointillist.models import cross_entropy
from pointillist.models.dist import at_least_fp32
from pointillist.models.heads import Chained, Softmax
from pointillist.training.compiling import compiled
from pointillist.training.optimization import Optimization, make_optimizer
from pointillist.training.speed import Speed, image_flops
from tests import toys as t

ROWS, DIM = (3, 7), 8  # [B, N] and D
HEADS = {
    "one book": lambda: Softmax((13,), DIM),
    "one book, bias": lambda: Softmax((13,), DIM, bias=True),
    "two books, bias": lambda: Softmax((13, 6), DIM, bias=True),
    "chained books": lambda: Chained((13, 6, 5), DIM, bias=True),
}


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch):
    """Chunks of four rows of 13, and a shorter last one."""
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 4 * 13 + 5)
    monkeypatch.setattr(cross_entropy, "PART", 2 * 13 + 1)


def made(name: str, dtype=torch.float64, rows=ROWS) -> tuple[Softmax, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head, hidden states, codes, and what the loss makes of each row's nats."""
    torch.manual_seed(0)
    head = HEADS[name]().to(dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    codes = torch.stack([torch.randint(v, rows) for v in head.vocab], dim=-1)
    hidden = torch.randn(*rows, DIM, dtype=dtype, requires_grad=True)
    return head, hidden, codes if len(head.vocab) > 1 else codes[..., 0], torch.rand(rows, dtype=dtype) - 0.3


def plain(head: Softmax, hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Nats from all logits at once."""
    logits = at_least_fp32(head(hidden, codes))
    found = F.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)
    return found if len(head.vocab) == 1 else found.sum(-1)


def gradients(loss: torch.Tensor, head: Softmax, hidden: torch.Tensor) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, [hidden, *head.parameters()])


@pytest.mark.parametrize("dtype, within", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", HEADS)
def test_chunks_change_neither_nats_nor_gradients(name, dtype, within):
    head, hidden, codes, weights = made(name, dtype)
    nats, whole = head.loss(hidden, codes), plain(head, hidden, codes)
    assert nats.shape == ROWS and nats.dtype == whole.dtype
    assert torch.allclose(nats, whole, rtol=0, atol=within)
    wanted = gradients((whole * weights).sum(), head, hidden)
    for mine, theirs in zip(gradients((nats * weights).sum(), head, hidden), wanted, strict=True):
        assert mine.dtype == theirs.dtype and torch.allclose(mine, theirs, rtol=0, atol=within)
    uniform = gradients(head.loss(hidden, codes).mean(), head, hidden)
    assert not torch.allclose(uniform[0] * nats.numel(), wanted[0], atol=1e-2), "the control: a row's weight matters"


@pytest.mark.parametrize("name", HEADS)
def test_in_an_autocast_products_are_bf16_and_nats_fp32(name):
    head, hidden, codes, weights = made(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        nats, whole = head.loss(hidden, codes), plain(head, hidden, codes)
    exact = plain(head, hidden, codes)
    assert nats.dtype == torch.float32
    assert torch.allclose(nats, whole, atol=1e-6), "the same products"
    assert not torch.allclose(nats, exact, atol=1e-6), "the control: those of fp32 are others"
    wanted = gradients((exact * weights).sum(), head, hidden)
    rounded = gradients((whole * weights).sum(), head, hidden)
    for mine, theirs, true in zip(gradients((nats * weights).sum(), head, hidden), rounded, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - true).norm() < 1.5 * (theirs - true).norm() + 1e-6, "no further from the truth than without"


def test_the_gradient_of_a_nearly_certain_code_is_not_rounded_away():
    """In bf16 p = 0.9995 is 1, and p - 1 = 0; from the nats it has all its digits."""
    head = Softmax((2,), 1)
    head.weight.data = torch.tensor([[0.0], [1.0]])
    hidden = torch.tensor([[[7.5]]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        (grad,) = torch.autograd.grad(head.loss(hidden, torch.tensor([[1]])).sum(), hidden)
    assert float(torch.tensor(7.5).sigmoid().bfloat16()) == 1
    assert float(grad) == pytest.approx(-float(torch.sigmoid(torch.tensor(-7.5))), rel=0.01)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(frozen):
    head, hidden, codes, weights = made("two books, bias")
    wholes = gradients((plain(head, hidden, codes) * weights).sum(), head, hidden)
    wanted = dict(zip(["hidden", "weight", "bias"], wholes, strict=True))
    (hidden if frozen == "hidden" else head.weight).requires_grad_(False)
    (head.loss(hidden, codes) * weights).sum().backward()
    found = {"hidden": hidden.grad, "weight": head.weight.grad, "bias": head.bias.grad}
    assert found.pop(frozen) is None
    assert all(torch.allclose(found[name], wanted[name]) for name in found)


class Largest(TorchDispatchMode):
    """The most numbers in one tensor that an operation has made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        made = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
        self.numbers = max([self.numbers, *(x.numel() for x in made)])
        return out


@pytest.mark.parametrize("graded", [True, False])
def test_no_tensor_holds_the_logits_of_all_rows(graded):
    head, hidden, codes, _ = made("one book", rows=(40, 10))
    most = {}
    for loss in (head.loss, partial(plain, head)):
        with Largest() as largest, torch.set_grad_enabled(graded):
            total = loss(hidden, codes).sum()
            if graded:
                total.backward()
        most[loss] = largest.numbers
    mine, theirs = most.values()
    assert mine == hidden.numel() < theirs == codes.numel() * 13


def test_a_compiled_loss_is_the_same():
    head, hidden, codes, weights = made("two books, bias")
    found = torch.compile(head.loss, backend="aot_eager")(hidden, codes)
    wanted = gradients((head.loss(hidden, codes) * weights).sum(), head, hidden)
    assert torch.allclose(found, head.loss(hidden, codes))
    for mine, theirs in zip(gradients((found * weights).sum(), head, hidden), wanted, strict=True):
        assert torch.allclose(mine, theirs)


# --------------------------------------------------------------------------------------------------------------- blocks


@contextmanager
def kept():
    """A list of one number: of how many numbers the forward pass keeps for the backward one."""
    total = [0]

    def count(x: torch.Tensor) -> torch.Tensor:
        total[0] += x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        yield total


def trained(toy, codes, cond) -> tuple[list[torch.Tensor], int]:
    """Gradients of one training step with dropout, and how many numbers were kept for them."""
    torch.manual_seed(2)
    with kept() as total:
        loss = toy.train().loss(codes, cond)["loss"]
    found = torch.autograd.grad(loss, list(toy.parameters()), allow_unused=True)
    return [x for x in found if x is not None], total[0]


@pytest.mark.parametrize("name", ["token", "token, shared AdaLN, cosine attention", "masked", "par, continuous"])
def test_checkpointing_keeps_less_and_changes_no_gradient(name):
    toy = deepcopy(t.toys()[name]).float()
    codes, cond = t.random_codes(toy), torch.tensor([0, 3, 2])
    whole, all_of_them = trained(toy, codes, cond)
    numbers = {0: all_of_them}
    for k in (1, 2):
        toy.transformer.checkpointing = k
        grads, numbers[k] = trained(toy, codes, cond)
        assert all(torch.equal(a, b) for a, b in zip(grads, whole, strict=True))
    assert numbers[1] < numbers[2] < numbers[0]
    for block in toy.transformer.blocks:
        block.drop.p = 0.0
    assert not torch.allclose(trained(toy, codes, cond)[0][0], whole[0]), "the control: dropout was on"


def test_all_blocks_share_one_compiled_graph(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    toy = deepcopy(t.toy("token", model={"depth": 4, "dropout": 0.0}))  # whose draws differ when compiled
    codes, cond, names = t.random_codes(toy), torch.tensor([0, 3, 2]), set(toy.state_dict())
    plain = trained(toy, codes, cond)[0]
    loss = compiled(toy)
    torch.manual_seed(2)
    found = torch.autograd.grad(loss(codes, cond)["loss"], list(toy.parameters()))
    assert len(graphs) == 1
    assert all(torch.allclose(a, b) for a, b in zip(found, plain, strict=True))
    assert set(toy.state_dict()) == names
    averaged = deepcopy(toy).eval()  # as the EMA of the weights is made
    averaged.loss(codes[:1], cond[:1])
    assert len(graphs) == 1, "the average is not compiled"


# ---------------------------------------------------------------------------------------------------------------- speed


def test_operations_are_those_of_the_mathematics(monkeypatch):
    """Twice as many as weights a code and pass, three passes, and attention; not what memory costs on top."""
    toy = t.untrained(t.toy("token").plan, t.GRID).float()
    example = {"codes": torch.zeros(1, 16, dtype=torch.long), "cond": torch.zeros(1, dtype=torch.long)}
    shape = toy.transformer.shape
    inside = sum(p.numel() for p in toy.transformer.parameters() if p.ndim == 2)
    by_hand = 6 * 16 * (inside + toy.head.weight.numel()) + 12 * shape.depth * 16 * 16 * shape.dim
    found = image_flops(toy, example)
    assert found == by_hand
    toy.transformer.checkpointing = 1
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 1)
    assert image_flops(toy, example) == by_hand
    assert all(p.grad is None for p in toy.parameters())


def test_rates_are_those_since_the_last_line():
    toy = t.untrained(t.toy("token").plan, t.GRID).float()
    example = {"codes": torch.zeros(1, 16, dtype=torch.long), "cond": torch.zeros(1, dtype=torch.long)}
    speed = Speed(toy, example, batch=8, precision="fp32", step=100, seconds=50.0)
    assert speed.until(110, 55.0)["tokens_per_second"] == 8 * 16 * 2
    rates = speed.until(120, 57.5)
    assert rates["tokens_per_second"] == 8 * 16 * 4
    assert rates["peak_share"] == pytest.approx(8 * 4 * image_flops(toy, example) / speed.peak, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------ optimiser


def test_the_optimiser_has_its_room_before_the_first_step_and_steps_as_ever():
    """AdamW makes its moments in its first step otherwise; made before, they must be what it would have made."""
    weights, states = [], []
    for made_before in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 5))
        model = model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model, Optimization(lr=0.1))
        assert len(optimizer.state) == 4
        if not made_before:
            optimizer.state.clear()
        for _ in range(3):
            model(torch.randn(2, 3, 4, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        weights.append(list(model.parameters()))
        states.append(optimizer.state_dict()["state"])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    for mine, theirs in zip(*(state.values() for state in states), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name], theirs[name])
            assert (mine[name].dtype, mine[name].stride()) == (theirs[name].dtype, theirs[name].stride())
