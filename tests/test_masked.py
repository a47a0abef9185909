"""The masked unit and sampler: what is hidden stays hidden, schedules and decoding are the published ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from pointillist.models.dist import Categorical
from pointillist.models.units.masked import hidden_codes
from pointillist.sampling import masked
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from tests.toys import random_codes, toy

GOLDEN = Path(__file__).parent / "golden" / "masked_decoding"
CASES, META = load_file(GOLDEN / "cases.safetensors"), json.loads((GOLDEN / "meta.json").read_text())
COND = torch.tensor([0, 3, 5])


@pytest.mark.parametrize("ratio", ["cosine", "arccos"])
def test_training_hides_what_it_scores_and_nothing_else(ratio):
    """The loss is the mean over just the codes that the network was not shown; their share follows the ratio's law."""
    plain = {"dropout": 0.0, "token_dropout": 0.0, "label_dropout": 0.0}
    model, seen = toy("masked", ratio=ratio, model=plain), {}
    codes, cond = random_codes(model, 2000), torch.zeros(2000, dtype=torch.long)
    hidden = model.hidden
    model.hidden = lambda c, *rest: (seen.update(codes=c), hidden(c, *rest))[1]
    model.train()
    torch.manual_seed(0)
    loss = model.loss(codes, cond)["loss"].item()
    hide = seen["codes"] < 0
    assert torch.equal(seen["codes"][~hide], codes[~hide]) and hide.any(1).all()
    with torch.no_grad():
        nats = model.head.loss(hidden(seen["codes"], cond), codes)
    assert loss == pytest.approx(nats[hide].mean().item(), rel=1e-9)
    assert loss != pytest.approx(nats.mean().item(), rel=1e-3), "the control: over all codes"
    nearly_all = (hide.double().mean(1) > 0.9).double().mean().item()  # ceil(16 r) > 14.4: r > 14 / 16
    share = {"cosine": math.acos(14 / 16) * 2 / math.pi, "arccos": math.cos(math.pi / 2 * 14 / 16)}
    assert nearly_all == pytest.approx(share[ratio], abs=0.01)


@torch.no_grad()
def test_the_evaluation_loss_is_the_any_order_bound():
    """Against the mean over drawn orders of -log p decoded one code a pass, per code."""
    model = toy("masked", passes=0)
    codes = random_codes(model, 1)
    torch.manual_seed(0)
    loss = model.loss(codes.expand(1600, -1), COND[:1].expand(1600))["loss"]
    images = torch.arange(100)
    state, total = model.start(COND[:1].expand(100), images, Noise(0)), torch.zeros(100, dtype=torch.float64)
    for slots in model.groups(state):
        true = codes.expand(100, -1).gather(1, slots)[:, None]
        total -= model.query(state, slots[:, None]).log_prob(true).sum((1, 2))
        model.commit(state, true, keep=1)
    decoded = total / model.plan.num_codes
    tolerance = 4 * float(decoded.std()) / 10 + 0.05
    assert abs(float(loss - decoded.mean())) < tolerance
    ratio_one = model(hidden_codes(codes, torch.ones_like(codes, dtype=torch.bool)), COND[:1]).log_softmax(-1)
    blind = -ratio_one.gather(-1, codes[..., None]).mean()
    assert abs(float(blind - decoded.mean())) > tolerance, "the control: every code without any other"


@pytest.mark.parametrize("name", [k for k in CASES if "masked_before_step" in k])
def test_schedules_are_the_published_ones(name):
    """Exact but where the publication's fp32 cosine falls just below an integer (256 * cos(pi / 3) = 127)."""
    side, passes = (int(part.split("_")[0]) for part in (name.split("grid")[1], name.split("steps")[1]))
    kind = "cosine" if name.startswith("google") else "arccos"
    ours = [side * side, *masked.masked_after(side * side, passes, kind)[:-1]]
    theirs = CASES[name].tolist()
    assert len(ours) == len(theirs)
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= (1 if kind == "cosine" else 0)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1
    other = [side * side, *masked.masked_after(side * side, passes, "linear")[:-1]]
    assert other != theirs, "the control: another schedule"


class Recorded:
    """A law whose passes are the recorded logits; codes -1 are unknown."""

    streams, any_subset = 1, True

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.step = logits, 0
        self.codes = torch.full(logits.shape[1:3], -1)
        self.plan, self.fed = SimpleNamespace(num_codes=logits.shape[2]), logits.shape[2]

    def start(self, cond, images, noise):
        return self

    def revealed(self, state):
        return self.codes >= 0

    def query(self, state, slots, *window):
        self.step += 1
        return Categorical(self.logits[self.step - 1][:, None])

    def commit(self, state, codes, keep):
        self.codes = torch.where(keep, codes, -1)[:, 0]

    def finish(self, state):
        return self.codes


class RecordedNoise:
    """The publication's Gumbel numbers, pass by pass."""

    def __init__(self, token: torch.Tensor, trust: torch.Tensor) -> None:
        self.token, self.trust = token, trust

    def gumbel(self, stream, images, slots, tokens):
        if stream == "trust":
            return self.trust[int(slots.max())][:, None]
        return self.token[int(slots.min()) // self.token.shape[2]][:, None]

    def race(self, stream, logits, images, slots):
        return (logits + self.gumbel(stream, images, slots, logits.shape[-1])).argmax(-1)


def test_confidence_decoding_is_maskgits():
    """Recorded logits and noise: the known codes before every pass equal google-research/maskgit's."""
    law = Recorded(CASES["run.logits"])
    noise = RecordedNoise(CASES["run.gumbel_token"], CASES["run.gumbel_confidence"])
    seen, query = [], law.query
    law.query = lambda state, slots, *window: (seen.append(law.codes.clone()), query(state, slots))[1]
    options = masked.Options(passes=META["constructor"]["steps"], pick="confidence", choice_temperature=4.5)
    images = torch.arange(2)
    final = masked.sample(law, torch.zeros(2, dtype=torch.long), noise, images, Trace(), options)
    theirs = CASES["google_run.ids_before_step"]
    theirs = torch.where(theirs == META["constructor"]["V"], -1, theirs)
    assert torch.equal(torch.stack(seen), theirs)
    assert torch.equal(final, CASES["google_run.sampled_after_step"][-1])
