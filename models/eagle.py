"""EAGLE (Li et al., arXiv 2401.15077): a small head drafts for a large network by running ahead in its features.

The feature f_s is the state of the target's transformer that its law of group s is made of. Place s >= 1 of the head
reads the code of group s - 1, as the target embeds it, and f_{s-1}, and predicts f_s; the target's own head turns that
into a law. Beyond what the target has seen the head reads its own features, so the class, which group 0 alone reads,
reaches it through them. Embedding and output head are the target's: neither trained, saved nor copied with this.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models import generator
from pointillist.models.attention import masked
from pointillist.models.dist import Dist, Noise, at_least_fp32
from pointillist.models.plan import Plan
from pointillist.models.transformer import Transformer


@dataclass
class Options:
    """The head; its width and attention heads are the target's."""

    depth: int = 1  # transformer blocks
    dropout: float = 0.0  # of what attention and feed-forward add to the residual stream
    label_dropout: float = 0.1  # the class becomes the null class: both streams of guidance go through the head
    noise: float = 0.0  # width of the uniform noise on the features it reads in training (EAGLE's; no gain on emoji)
    law_weight: float = 0.1  # of the laws' divergence in the loss, beside the features' SmoothL1

    def __post_init__(self) -> None:
        if self.depth < 1 or not 0 <= self.dropout < 1 or not 0 <= self.label_dropout < 1:
            raise ValueError(
                "model.depth must be at least 1, model.dropout and model.label_dropout must lie in [0, 1); got "
                f"{self.depth}, {self.dropout} and {self.label_dropout}"
            )
        if not (self.noise >= 0 and self.law_weight >= 0):
            raise ValueError(
                f"model.noise and model.law_weight must be at least 0, got {self.noise} and {self.law_weight}"
            )


@dataclass
class State(generator.State):
    """Decoding state of a head, where place s is group s.

    features [B, L + 1, D] by place: the target's, from where they end the head's own; the last row takes padding
    clean    [B] places before this one have keys of the latest features
    learned  [B] bool: the target's first features are there
    """

    features: Tensor = field(default_factory=lambda: torch.empty(0))
    clean: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    learned: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))


class Shared:
    """A frozen network that its owner uses, and the owner's copies with it: no part of the owner's weights."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __deepcopy__(self, memo: dict) -> Shared:
        return self


def fits(plan: Plan, spec: CodeSpec) -> bool:
    """Is one code, of a finite vocabulary, predicted at one place a pass, and read at the next?"""
    alone = len(plan.groups) == plan.length == plan.num_codes > 1
    return bool(spec.vocab) and alone and plan.num_learned == 0


class Eagle(nn.Module):
    """A draft law: it goes where its target goes (`rewind`), is told the target's features (`learn`), and runs ahead
    one group at a time (`query`)."""

    streams = 1
    any_order = any_subset = joint = False
    drafts_only = True  # without the features of a target there is nothing to sample

    def __init__(self, options: Options, target: generator.Generator) -> None:
        super().__init__()
        assert fits(target.plan, target.spec), "callers name the units that fit"
        self.options, self.unit, self.spec, self.plan = options, target.unit, target.spec, target.plan
        self.num_classes, self.shared = target.num_classes, Shared(target.eval().requires_grad_(False))
        shape = replace(target.transformer.shape, depth=options.depth, dropout=options.dropout)
        shape = replace(shape, adaln="none", adaln_head=False)  # the class is in the features
        self.join = nn.Linear(2 * shape.dim, shape.dim)
        self.transformer = Transformer(shape)

    @property
    def target(self) -> generator.Generator:
        return self.shared.network

    def cast(self, dtype: torch.dtype) -> None:
        """Turn the weights to another floating type, for sampling."""
        self.to(dtype)
        self.target.cast(dtype)

    # ------------------------------------------------------------------------------------------------------- training

    @torch.no_grad()
    def true_features(self, codes: Tensor, cond: Tensor) -> Tensor:
        """The target's features [B, L, D] by place of codes [B, N, ...] given classes cond [B], teacher forced."""
        return self.target.hidden(codes, cond)[:, self.target.layout.predicts[:, 0]]

    def forward(self, codes: Tensor, cond: Tensor, features: Tensor) -> Tensor:
        """Predicted features [B, L - 1, D] of places 1, 2, ..; each from the given ones [B, L, D] before it."""
        layout = self.target.layout
        index = layout.index().window(torch.arange(1, self.plan.length, device=codes.device)[None])
        x = self.join(torch.cat([self.target.embed(codes, cond, index), features[:, :-1]], dim=-1))
        return self.transformer(x, layout.rope(index.at), masked(layout.mask[1:, 1:]))

    def loss(self, codes: Tensor, cond: Tensor) -> dict[str, Tensor]:
        """SmoothL1(f', f) + law_weight * KL(target's law of f || its law of f'), means over places.

        The publication's cross-entropy is this divergence plus the entropy of the target, which nothing here changes.
        """
        cond, noise = self.drop(cond), self.options.noise
        features = self.true_features(codes, cond)
        read = features + noise * (torch.rand_like(features) - 0.5) if self.training and noise else features
        drafted = self(codes, cond, read)
        p, q = (self.law(x, codes) for x in (features[:, 1:], drafted))
        divergence = (p.exp() * (p - q).masked_fill(p == float("-inf"), 0)).sum(-1).mean()
        feature = F.smooth_l1_loss(at_least_fp32(drafted), at_least_fp32(features[:, 1:]))
        return {"loss": feature + self.options.law_weight * divergence, "feature": feature, "divergence": divergence}

    drop = generator.Generator.drop  # the class, for a share label_dropout of the images

    def law(self, features: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities [B, L - 1, (K,) V] of features [B, L - 1, D] of places 1, 2, ..; chained books are given
        the codes [B, N, K] before them."""
        true = codes[:, self.target.layout.predicts[1:, 0]]
        return at_least_fp32(self.target.head(features, true)).log_softmax(-1)

    # ------------------------------------------------------------------------------------------------------- decoding

    def null(self, cond: Tensor) -> Tensor:
        return self.target.null(cond)

    def groups(self, state: State) -> list[Tensor]:
        return self.target.groups(state)

    def decoded(self, state: State, m: int) -> Tensor:
        return self.target.decoded(state, m)

    def step_share(self, state: State, m: int) -> Tensor:
        return self.target.step_share(state, m)

    def start(self, cond: Tensor, images: Tensor, noise: Noise, order: Tensor | None = None, known: int = 0) -> State:
        """As the target's, with caches of its own and room for features."""
        order = self.target.order(images, noise) if order is None else order
        return State(
            cond=cond,
            images=images,
            length=torch.zeros_like(cond),
            codes=self.target.blank(cond),
            caches=self.transformer.new_caches(len(cond), self.plan.length),
            index=self.target.layout.index(order),
            order=order,
            known=known,
            features=self.join.weight.new_zeros(len(cond), self.plan.length + 1, self.transformer.shape.dim),
            clean=torch.ones_like(cond),
            learned=torch.zeros_like(cond, dtype=torch.bool),
        )

    def can_draft(self, state: State) -> Tensor:
        return state.learned

    def learn(self, state: State, slots: Tensor, features: Tensor) -> None:
        """Write the target's features [B, m, 1, D] of slots [B, m, 1]. Keys from the place behind the first on are
        stale then; features of groups whose codes were not committed hold until the head gets there."""
        if features.shape[-1] != state.features.shape[-1]:
            raise ValueError(
                f"the draft head reads features of width {state.features.shape[-1]}, this generator's have "
                f"{features.shape[-1]}; draft with a head that was trained on it"
            )
        length, slots = self.plan.length, slots.flatten(1)
        places = torch.take_along_dim(state.index.place_of, slots.clamp_min(0), dim=1)
        places = torch.where(slots < 0, length, places)  # [B, m]
        rows = torch.arange(len(places), device=places.device)[:, None]
        state.features[rows, places] = features[:, :, 0].to(state.features.dtype)
        state.clean, state.learned = state.clean.minimum(places[:, 0] + 1), torch.ones_like(state.learned)

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None, pattern: None = None) -> Dist:
        """One pass: the laws of the next m groups, slots [B, m, 1], of which the last is predicted; slot -1 pads.

        With m = 2 and draft [B, 1, 1, ...] the first is the newest that was committed, and its law the target's.
        All places whose features have come since the latest pass are fed with it. What it says of images that it
        cannot draft for yet means nothing.
        """
        if not bool(state.learned.any()):
            raise ValueError("an EAGLE head only drafts: sample its target with draft=HEAD sampler.drafter=model")
        m, length, layout = slots.shape[1], self.plan.length, self.target.layout
        assert pattern is None and (m, draft is None) in ((1, True), (2, False)), "it runs ahead one group at a time"
        if draft is not None:
            state.put(slots[:, :-1] % state.codes.shape[1], draft)
        rows = torch.arange(len(slots), device=slots.device)
        end = (state.length + m).clamp_max(length)  # [B] the last group's place is before this one
        first = state.clean.minimum(end - 1)
        width, until = int((end - first).max()), min(state.longest + m, length)
        places = (first[:, None] + torch.arange(width, device=first.device)).clamp_max(length - 1)  # [B, W]
        index, mask = state.index.window(places), layout.mask[places, :until]
        mask[..., 0] = False  # place 0, the condition's, is never fed
        x = self.target.embed(state.codes, state.cond, index)
        x = self.join(torch.cat([x, state.features[rows[:, None], places - 1]], dim=-1))
        x = self.transformer.decode(x, layout.rope(index.at), mask, state.caches, places, until)
        asked = (state.length[:, None] + torch.arange(m, device=rows.device)).clamp_max(length)  # [B, m]
        state.features[rows, asked[:, -1]] = x[rows, end - 1 - first]
        state.clean, state.fed = end, width
        return self.target.head.dist(state.features[rows[:, None], asked][:, :, None])

    def rewind(self, state: State, length: Tensor, slots: Tensor, codes: Tensor) -> None:
        self.target.rewind(state, length, slots, codes)

    def select(self, state: State, rows: Tensor) -> State:
        own = {name: getattr(state, name)[rows] for name in ("features", "clean", "learned")}
        return replace(self.target.select(state, rows), **own)

    def refill(self, state: State, rows: Tensor, fresh: State) -> None:
        self.target.refill(state, rows, fresh)
        for name in ("features", "clean", "learned"):
            setattr(state, name, getattr(state, name).index_copy(0, rows, getattr(fresh, name)))
