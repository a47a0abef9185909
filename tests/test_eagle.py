"""The EAGLE head: its cache, its place under the samplers, its training and its checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pointillist.configs.options import find, load
from pointillist.models.eagle import Eagle, Options, fits
from pointillist.sampling import ancestral
from pointillist.sampling.drafts import padded, window
from pointillist.sampling.laws import Aided, target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.tasks import eagle as task
from tests.toys import BOOKS, random_codes, toy, toys

TOYS = toys() | {"token, two books chained": toy("token", BOOKS, model={"books": "chain"})}
FITTING = [name for name, found in TOYS.items() if fits(found.plan, found.spec)]


def toy_head(name: str = "token", **options) -> Eagle:
    """An untrained fp64 head of a random toy."""
    torch.manual_seed(3)
    head = Eagle(Options(**options), TOYS[name]).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 1.0)
    return head


def test_units_that_decode_one_code_at_one_place_fit():
    assert {"token", "patch", "rar", "token, hilbert", "token, two books"} <= set(FITTING)
    assert not {"cell", "masked", "randar", "scale", "flow", "par", "mar"} & set(FITTING)


# ----------------------------------------------------------------------------------------------------------- decoding


@torch.no_grad()
def uncached(head: Eagle, codes: Tensor, cond: Tensor, known: int, upto: int) -> Tensor:
    """[B, D] feature of group `upto`: the target's of groups before `known`, then the head's own, each by a whole
    pass."""
    features = head.true_features(codes, cond)
    for group in range(known, upto + 1):
        features[:, group] = head(codes, cond, features)[:, group - 1]
    return features[:, upto]


def slots_of(head: Eagle, state, start: Tensor, m: int) -> Tensor:
    return window(padded(head.groups(state)), start, m)


def at(codes: Tensor, slots: Tensor) -> Tensor:
    """Codes [B, N, ...] at slots [B, m, 1]; anything where they pad."""
    return codes[torch.arange(len(codes))[:, None, None], slots.clamp_min(0)]


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_cached_ragged_drafting_is_the_uncached_head(name, depth):
    """Rows go on at their own pace: some guesses of a pass stay, the others are replaced, with their features."""
    head = toy_head(name, depth=depth)
    codes, images = random_codes(TOYS[name], 3), torch.arange(3)
    cond, total = torch.tensor([1, 4, 5]), head.plan.length
    true = head.true_features(codes, cond)
    state = head.start(cond, images, Noise(0))
    assert not head.can_draft(state).any()
    length, checked = torch.zeros(3, dtype=torch.long), 0
    for kept in ([1, 1, 1], [1, 4, 2], [3, 1, 1], [2, 2, 5], [1, 6, 3], [7, 2, 4], [1, 1, 1], [1, 1, 1]):
        keep = torch.tensor(kept).minimum(total - length)
        pass_slots = slots_of(head, state, length, 7)  # the target's pass: a bad guess has bad features behind it
        right = torch.arange(7) < keep[:, None]
        seen = torch.where(right.view(3, 7, *[1] * (codes.ndim - 1)), at(codes, pass_slots), 0)
        places = (length[:, None] + torch.arange(7)).clamp_max(total - 1)
        features = true[torch.arange(3)[:, None], places] * right[..., None]
        length = length + keep
        head.rewind(state, length - 1, pass_slots, seen)
        head.learn(state, pass_slots, features[:, :, None])
        if length.tolist() == [5, 6, 4]:
            order = torch.tensor([2, 0, 1])
            state, codes, true = head.select(state, order), codes[order], true[order]
            cond, length, keep = cond[order], length[order], keep[order]
        before = slots_of(head, state, length - 1, 1)
        rows, drafted = torch.arange(3), codes.clone()
        for d in range(3):
            slot = slots_of(head, state, length + d, 1)
            both, newest = (torch.cat([before, slot], 1), at(codes, before)) if d == 0 else (slot, None)
            got = head.query(state, both, newest)
            assert state.fed <= (max(int(keep.max()), 1) if d == 0 else 1), "what is new, and no more"
            hidden = state.features[rows, (length + d).clamp_max(total)]
            for b in range(3):
                if length[b] + d < total:
                    want = uncached(head, drafted[b : b + 1], cond[b : b + 1], int(length[b]), int(length[b]) + d)
                    assert (hidden[b] - want[0]).abs().max() < 1e-10
                    law = head.target.head(want, at(drafted, slot)[b, 0])
                    if hasattr(got, "logits"):
                        assert (got.logits[b, -1] - law).nan_to_num().abs().max() < 1e-10
                    checked += 1
            guess = (at(codes, slot) + 1) % min(head.spec.vocab)
            inside = slot[:, 0, 0] >= 0
            drafted[rows[inside], slot[inside, 0, 0]] = guess[inside, 0, 0]
            head.rewind(state, (length + d + 1).clamp_max(total), slot, guess)
    assert checked > 30


def test_a_committed_group_has_the_targets_law():
    head, cond = toy_head(), torch.tensor([2])
    codes = random_codes(TOYS["token"], 1)
    state = head.start(cond, torch.arange(1), Noise(0))
    slots = slots_of(head, state, torch.tensor([0]), 2)
    with torch.no_grad():
        true = head.true_features(codes, cond)
        head.rewind(state, torch.tensor([0]), slots[:, :1], at(codes, slots[:, :1]))
        head.learn(state, slots[:, :1], true[:, :1, None])
        logits = head.query(state, slots, at(codes, slots[:, :1])).logits
        assert (logits[:, 0, 0] - TOYS["token"](codes, cond)[:, 0]).abs().max() < 1e-10
        assert (logits[:, 1, 0] - TOYS["token"](codes, cond)[:, 1]).abs().max() > 0.1, "the control: a guess is one"


@torch.no_grad()
def test_guidance_takes_both_streams_through_the_head():
    head, codes, cond, known = toy_head(), random_codes(TOYS["token"], 2), torch.tensor([1, 3]), 3
    law = target(head, 2.5)
    state = law.start(cond, torch.arange(2), Noise(0))
    streams = [cond, head.null(cond)]
    slots, length = slots_of(law, state, torch.zeros(2, dtype=torch.long), known), torch.full((2,), known)
    law.rewind(state, length - 1, slots, at(codes, slots))
    law.learn(state, slots, torch.cat([head.true_features(codes, c)[:, :known, None] for c in streams]))
    for upto in range(known, 6):
        m = 2 if upto == known else 1
        slots = slots_of(law, state, length + 1 - m, m)
        logits = law.query(state, slots, at(codes, slots[:, :1]) if m == 2 else None).logits[:, -1, 0]
        given, null = (head.target.head(uncached(head, codes, c, known, upto)) for c in streams)
        assert (logits - (null + 2.5 * (given - null))).abs().max() < 1e-10 < (given - null).abs().max()
        length = torch.full((2,), upto + 1)
        law.rewind(state, length, slots[:, -1:], at(codes, slots[:, -1:]))


def test_nothing_is_drafted_before_the_first_pass():
    head = toy_head()
    state = head.start(torch.tensor([1]), torch.arange(1), Noise(0))
    with pytest.raises(ValueError, match="an EAGLE head only drafts"):
        ancestral.sample(head, torch.tensor([1]), Noise(0), torch.arange(1), Trace(), ancestral.Options())
    with pytest.raises(ValueError, match="reads features of width 64, this generator's have 32"):
        head.learn(state, torch.zeros(1, 1, 1, dtype=torch.long), torch.zeros(1, 1, 1, 32))


# ------------------------------------------------------------------------------------------------------- as a drafter


def speculate(name: str, head: Eagle, words: list[str], sampler: str = "jacobi", batch: int = 12) -> tuple[Tensor, ...]:
    """Codes by ancestral decoding, codes by a sampler that the head drafts for, and the trace."""
    module = find("sampling", sampler)
    options = load(module.Options, None, ["drafter=model", *words])
    numbers = dict(guidance=2.5, temperature=0.9, top_k=8)
    law, images = target(TOYS[name], **numbers), torch.arange(batch)
    aided, trace = Aided(law, target(head, **numbers), torch.randn(11, 4)), Trace()
    plain = ancestral.sample(law, images % 5, Noise(1), images, Trace(), ancestral.Options())
    return plain, module.sample(aided, images % 5, Noise(1), images, trace, options), trace.summary()


WORDS = ["window=1"], ["window=5"], ["window=30"], ["window=3", "ways=2"]
ONE_BOOK = [name for name in FITTING if len(TOYS[name].spec.vocab) == 1]  # several ways are for these
CASES = [(name, words) for words in WORDS for name in (ONE_BOOK if "ways=2" in words else FITTING)]


@pytest.mark.parametrize(("name", "words"), CASES, ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_the_exact_rule_gives_ancestrals_codes(name, words):
    plain, drafted, cost = speculate(name, toy_head(name), words)
    assert torch.equal(plain, drafted)
    assert cost["nfe_per_image"] <= cost["steps"] and cost["drafter"]["passes"] > 0


def test_a_head_that_knows_the_features_is_always_right(monkeypatch):
    """The drafter's protocol, with a head whose prediction is the target's own: every guess is kept."""
    head, toy_target = toy_head(), TOYS["token"]

    def omniscient(self, state, slots, draft=None, tree=None):
        dist = Eagle.query(self, state, slots, draft, tree)
        true = self.true_features(state.codes[:, :-1], state.cond)
        asked = (state.length[:, None] + torch.arange(slots.shape[1])).clamp_max(self.plan.length)
        rows = torch.arange(len(slots))[:, None]
        state.features[rows, asked] = torch.cat([true, true[:, :1]], 1)[rows, asked]
        return replace(dist, logits=toy_target.head(state.features[rows, asked][:, :, None]))

    monkeypatch.setattr(head, "query", omniscient.__get__(head))
    plain, drafted, cost = speculate("token", head, ["window=4"])
    assert torch.equal(plain, drafted) and cost["accepted"] == 1
    assert cost["nfe_per_image"] == 1 + 15 / 5


@pytest.mark.parametrize(
    ("sampler", "words"), [("jacobi", ["rule=mrs", "window=4"]), ("lantern", []), ("jacobi", ["rule=mrs", "ways=2"])]
)
def test_rules_that_ask_for_laws_take_it(sampler, words):
    plain, drafted, cost = speculate("token", toy_head(), words, sampler)
    assert drafted.shape == plain.shape and 0 <= cost["accepted"] < 1 and cost["draft_cost"] > 0


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("name", FITTING)
def test_training_lowers_the_loss_and_raises_acceptance(name):
    torch.manual_seed(0)
    head, codes = Eagle(Options(noise=0.1), TOYS[name]).double(), random_codes(TOYS[name], 32)
    cond = torch.arange(32) % 6
    before = [p.clone() for p in head.target.parameters()]

    def measure() -> tuple[float, Tensor]:
        with torch.no_grad():
            found = task.acceptance(head.eval(), codes, cond)
            return float(head.loss(codes, cond)["loss"]), found.nanmean((1, 2))

    (loss, accepted), steps = measure(), torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(40):
        steps.zero_grad()
        head.train().loss(codes, cond)["loss"].backward()
        steps.step()
    trained, better = measure()
    assert trained < 0.8 * loss and (better > accepted).all()
    assert all(torch.equal(a, b) for a, b in zip(before, head.target.parameters(), strict=True)), "it is frozen"


def test_acceptance_counts_what_is_guessed():
    found = task.acceptance(toy_head("rar"), random_codes(TOYS["rar"], 2), torch.tensor([1, 2]))
    assert found.shape == (4, 2, 16) and (found.nan_to_num() <= 1).all()
    assert (found.isnan().sum(-1) == torch.arange(1, 5)[:, None]).all(), "guess d begins at group d"


def test_copies_share_the_target_and_no_weight_of_it_is_saved():
    head = toy_head()
    twin = copy.deepcopy(head)
    assert twin.target is head.target and twin.join.weight is not head.join.weight
    own = sum(p.numel() for p in head.parameters())
    assert own == sum(v.numel() for v in head.state_dict().values()) < sum(p.numel() for p in head.target.parameters())
    assert {k.split(".")[0] for k in head.state_dict()} == {"join", "transformer"}
    head.cast(torch.float64)
    assert not head.train().target.training
