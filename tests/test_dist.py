"""What a law is, alone: chains of books, flows, guidance, warping and given codes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from scipy import stats

from pointillist import CodeSpec
from pointillist.models.dist import Categorical, Chain, Cut, Flow, guide
from pointillist.models.generator import Options
from pointillist.models.heads import FlowHead, Softmax
from pointillist.models.units import flow
from pointillist.sampling import ancestral
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace

IMAGES = 20_000


def many(count: int = IMAGES) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count), torch.zeros(count, 1, 1, dtype=torch.long)


def chain(rows: int = 1) -> Chain:
    """Two books of 3 and 2, the second leaning on the first; the hidden state [rows, 1, 1, 1] shifts both."""

    def next_book(hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        if codes.shape[-1] == 0:
            return hidden * torch.tensor([0.2, 0.5, -0.4], dtype=torch.float64)
        return hidden * 0.1 + torch.tensor([[1.0, -1], [-1, 1], [0, 0.5]], dtype=torch.float64)[codes[..., 0]]

    return Chain(torch.arange(1, rows + 1).double().view(rows, 1, 1, 1), next_book, 2)


@torch.no_grad()
@pytest.mark.parametrize("guided", [False, True])
def test_a_chain_draws_from_the_product_of_its_conditionals(guided):
    law = chain(2).guided(torch.full((1, 1), 1.7)) if guided else chain()
    pairs = torch.tensor(list(product(range(3), range(2))))
    probability = torch.stack([law.log_prob(pair.view(1, 1, 1, 2)).exp().squeeze() for pair in pairs])
    assert abs(float(probability.sum()) - 1) < 1e-12
    images, slots = many()
    everyone = Chain(law.hidden.repeat_interleave(IMAGES, 0), law.next_book, 2)
    everyone = everyone.guided(torch.full((IMAGES, 1), 1.7)) if guided else everyone
    codes = everyone.sample(Noise(0), images, slots)[:, 0, 0]
    counts = torch.bincount(codes[:, 0] * 2 + codes[:, 1], minlength=6)
    assert stats.chisquare(counts.numpy(), (probability * IMAGES).numpy()).pvalue > 1e-6
    independent = torch.stack([probability[(pairs[:, 0] == a)].sum() * probability[(pairs[:, 1] == b)].sum()
                               for a, b in pairs.tolist()])  # fmt: skip
    assert stats.chisquare(counts.numpy(), (independent * IMAGES).numpy()).pvalue < 1e-6, "the control: no chain"


@torch.no_grad()
def test_parallel_books_of_unequal_size_never_draw_what_is_not_there():
    head = Softmax((3, 7), 8)
    codes = head.dist(torch.randn(500, 1, 1, 8)).sample(Noise(0), *many(500))
    assert codes[..., 0].max() == 2 and codes[..., 1].max() == 6
    guided = head.dist(torch.randn(1000, 1, 1, 8)).guided(torch.full((500, 1), 3.0))
    assert not guided.logits.isnan().any() and guided.sample(Noise(0), *many(500))[..., 0].max() == 2
    cond, null = torch.tensor([[[0.0, float("-inf")]]]), torch.tensor([[[1.0, float("-inf")]]])
    naive = null + 3 * (cond - null)
    assert naive.isnan().any() and not guide(torch.cat([cond, null]), torch.full((1, 1), 3.0)).isnan().any()


def gaussian(x: torch.Tensor, t: float) -> torch.Tensor:
    """The exact velocity of the straight path from N(0, 1) to N(2, 0.5^2)."""
    mean, variance = (1 - t) * 2, (1 - t) ** 2 * 0.25 + t**2
    slope = (t - (1 - t) * 0.25) / variance
    return -2 + slope * (x - mean)


def test_a_flow_carries_noise_to_the_data_and_heun_is_of_second_order():
    images, slots = many(4000)
    errors = {}
    exact = 2 + 0.5 * Noise(0).normal("code", images[:, None, None], slots, 1)  # the flow map of a Gaussian is linear
    for heun in (False, True):
        for steps in (10, 20, 40):
            drawn = Flow(gaussian, 1, steps, heun).sample(Noise(0), images, slots)
            errors[heun, steps] = float((drawn - exact).abs().max())
    order = {heun: torch.tensor(errors[heun, 20] / errors[heun, 40]).log2().item() for heun in (False, True)}
    assert 0.8 < order[False] < 1.3 and 1.7 < order[True] < 2.5, errors
    assert errors[True, 40] < 0.02 < errors[False, 10]
    assert (Flow(gaussian, 1, 7).passes, Flow(gaussian, 1, 7, heun=True).passes) == (7, 13)


def test_a_guided_flow_is_the_flow_of_the_guided_velocity():
    def two(x: torch.Tensor, t: float) -> torch.Tensor:
        cond, null = x.chunk(2)
        return torch.cat([gaussian(cond, t), -null])

    images, slots = many(50)
    guided = Flow(two, 1, 9).guided(torch.full((50, 1), 3.0)).sample(Noise(1), images, slots)
    plain = Flow(lambda x, t: -x + 3 * (gaussian(x, t) + x), 1, 9).sample(Noise(1), images, slots)
    assert torch.allclose(guided, plain, atol=1e-12)
    cold = Flow(gaussian, 1, 9).warped(Cut(0.0)).sample(Noise(1), images, slots)
    assert (cold == cold[0]).all(), "temperature 0: the noise is gone"


def test_given_codes_are_kept_exactly_by_every_kind_of_law():
    known = torch.tensor([True, False]).view(1, 1, 2).expand(64, -1, -1)
    images, slots = torch.arange(64), torch.arange(2).view(1, 1, 2).expand(64, -1, -1)
    flow = Flow(lambda x, t: gaussian(x, t), 3, 4)
    categorical = Categorical(torch.randn(64, 1, 2, 5))
    one = chain()
    books = Chain(one.hidden.expand(64, 1, 2, 1), one.next_book, 2)
    for law, codes in (
        (categorical, torch.full((64, 1, 2), 3)),
        (books, torch.full((64, 1, 2, 2), 1)),
        (flow, torch.full((64, 1, 2, 3), 0.123456789, dtype=torch.float64)),
    ):
        drawn = law.given(codes, known).sample(Noise(0), images, slots)
        assert torch.equal(drawn[:, :, 0], codes[:, :, 0])
        assert torch.equal(drawn[:, :, 1], law.sample(Noise(0), images, slots)[:, :, 1]), "the others are untouched"
        assert not torch.equal(drawn[:, :, 1], codes[:, :, 1])


@pytest.mark.parametrize("group", ["cell", "scale"])
def test_a_flow_unit_learns_what_it_is_shown(group):
    """Two classes, two images: after training a sample of each class is its image, and not the other's."""
    torch.manual_seed(0)
    spec = CodeSpec(((4, 4),), (), 2)
    unit = flow.Options(group=group, size=2, sides=[1, 2])
    model = flow.Generator(Options(size="nano", flow_steps=12), spec, flow.plan(spec, unit), 2, unit)
    images, cond = torch.randn(2, 16, 2).sign(), torch.arange(2).repeat(8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model.loss(images[cond], cond)["loss"].backward()
        optimizer.step()
    drawn = ancestral.sample(model.eval(), cond, Noise(0), torch.arange(16), Trace(), ancestral.Options())
    error, other = ((drawn - images[c]).square().mean() for c in (cond, 1 - cond))
    assert error < 0.25 < 1 < other, (float(error), float(other))


def test_a_flow_head_learns_what_it_is_shown():
    """Two hidden states, two points: after training the draws lie at the right one."""
    torch.manual_seed(0)
    head = FlowHead(2, 16, steps=20)
    hidden, codes = torch.eye(16)[:2][None], torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        loss = head.loss(hidden.expand(32, -1, -1), codes.expand(32, -1, -1)).mean()
        loss.backward()
        optimizer.step()
    slots = torch.arange(2).view(1, 1, 2).expand(64, -1, -1)
    with torch.no_grad():
        drawn = head.dist(hidden[:, None].expand(64, -1, -1, -1)).sample(Noise(0), torch.arange(64), slots)
    assert (drawn.mean((0, 1)) - codes[0]).abs().max() < 0.3
    assert (drawn.mean((0, 1)) - codes[0].flip(0)).abs().min() > 1, "the control: the other point"
