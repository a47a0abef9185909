"""Generator: transformer + prediction unit + head = p(codes | condition).

Training reads the whole planned sequence at once; decoding feeds windows of the same places through a cache, under
rows of the same mask. `query(m=1)` is ancestral decoding, `query(m > 1)` with a draft is verification.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models.blocks import Cache
from pointillist.models.condition import Captions, Classes, no_captions
from pointillist.models.dist import Dist, Noise
from pointillist.models.front import Front
from pointillist.models.heads import CodeEmbedding, head_of
from pointillist.models.layout import Index, Layout
from pointillist.models.options import Options
from pointillist.models.plan import LEARNED, Plan, with_prefix
from pointillist.models.state import State
from pointillist.models.transformer import Modulations, Transformer
from pointillist.models.tree import Tree, settle

Pattern = Tree | Front  # how the groups of a pass depend on one another, if they are no window

SAMPLING = {"attention", "flow_steps"}  # options that may change after training


class Generator(nn.Module):
    """p(codes | class) for codes of any kind and any unit with a fixed plan.

    A unit that needs more than its plan defines a subclass of this name in its own file; `unit` are its options.
    """

    streams = 1  # forward rows an image
    any_order = False  # start() takes per-image orders
    any_subset = False  # query() gives the law of any unknown slots given any known ones
    joint = False  # codes of a group depend on one another
    modulated = False  # by AdaLN of the unit's own
    reads_lift = False  # the constructor takes the tokenizer's lift

    def __init__(self, options: Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Any = None) -> None:
        super().__init__()
        assert plan.num_codes == spec.length, f"plan predicts {plan.num_codes} codes, the tokenizer has {spec.length}"
        self.options, self.unit, self.spec, self.num_classes = options, unit, spec, num_classes
        shape = options.shape()
        if self.modulated:
            if shape.adaln != "none" or shape.adaln_head:
                raise ValueError(
                    f"unit={unit.name} has its own AdaLN; leave model.adaln=none and model.adaln_head=false"
                )
            shape = replace(shape, adaln="given")
        self.code_embedding = self.new_code_embedding(shape.dim)
        length, channels = options.caption_length, options.caption_channels
        self.class_embedding = None if length else Classes(num_classes, shape.dim)
        self.captions = Captions(length, channels, shape.dim) if length else None
        self.plan = plan = self.captioned(plan)
        self.learned = nn.Embedding(plan.num_learned, shape.dim) if plan.num_learned else None
        self.embedding_drop = nn.Dropout(options.token_dropout)
        self.transformer = Transformer(shape)
        self.head = self.new_head(shape.dim)
        self.layout = self.new_layout(plan)
        self.apply(_initialise)
        for name, weight in self.head.named_parameters():
            if name in ("weight", "write.weight", "write.bias") or "modulate" in name:
                nn.init.zeros_(weight)  # LlamaGen: the untrained model is uniform, its loss is log V
        for name, weight in self.transformer.named_parameters():
            if "modulate" in name:
                nn.init.zeros_(weight)  # AdaLN-zero: untrained blocks add nothing

    def new_code_embedding(self, dim: int) -> nn.Module | None:
        return CodeEmbedding(self.spec.vocab, dim) if self.spec.vocab else nn.Linear(self.spec.channels, dim)

    def new_head(self, dim: int) -> nn.Module:
        options = self.options
        return head_of(self.spec, dim, options.books == "chain", options.flow_steps, options.head_bias)

    def new_layout(self, plan: Plan) -> Layout:
        shape = self.options.shape()
        return Layout(plan, self.options.attention, shape.head_dim if shape.rope else None)

    def captioned(self, plan: Plan) -> Plan:
        """A plan with the places of a caption in front, where there is one. Raises ValueError for units whose places
        read what this class does not know of."""
        if self.captions is not None and type(self).embed is not Generator.embed:
            raise no_captions(self.unit.name, Generator.embed)
        return plan if self.captions is None else with_prefix(plan, self.captions.length)

    @property
    def condition(self) -> Classes | Captions:
        return self.class_embedding if self.captions is None else self.captions

    def caption(self, features: Tensor, mask: Tensor | None = None) -> None:
        """Let cond mean these captions, 0..n-1: features [n, t, C] with tokens where mask [n, t] is true."""
        if self.captions is None:
            raise ValueError("this generator draws classes, not captions; leave captions= and prompt=")
        self.captions.hold(features, mask)

    def new_caches(self, batch: int) -> list[Cache]:
        return self.transformer.new_caches(batch, self.plan.length)

    def cast(self, dtype: torch.dtype) -> None:
        """Turn the weights to another floating type, for sampling."""
        self.to(dtype)

    # ------------------------------------------------------------------------------------------------------- training

    def forward(self, codes: Tensor, cond: Tensor, order: Tensor | None = None) -> Tensor:
        """Teacher-forced logits by slot, [B, N, V] or [B, N, K, V], of codes [B, N] or [B, N, K] given
        conditions cond [B]. Continuous codes [B, N, C]: the hidden states [B, N, D] that their laws hang on.

        order [B, N] gives each image its own order: what the plan says of slot j then holds for slot order[j].
        """
        return self.head(self.hidden(codes, cond, order), codes)

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, progress: float = 1) -> dict[str, Tensor]:
        """Mean loss of a code: nats, or the squared error of a flow. In training the class is dropped with
        options.label_dropout. progress in [0, 1] is the share of the training done, for units that change on the way.
        """
        return {"loss": self.head.loss(self.hidden(codes, self.drop(cond), order), codes).mean()}

    def drop(self, cond: Tensor) -> Tensor:
        """cond [B] with the null class or caption for a share of the images, in training."""
        if not (self.training and self.options.label_dropout):
            return cond
        dropped = torch.rand(cond.shape, device=cond.device) < self.options.label_dropout
        return torch.where(dropped, self.null(cond), cond)

    def hidden(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, layout: Layout | None = None) -> Tensor:
        """[B, N, D] by slot: what the head makes each code's law of."""
        layout = layout or self.layout
        index = layout.index(order)
        x = self.embedding_drop(self.embed(codes, cond, index))  # [B, L, D]
        attend = self.condition.attend(layout, cond)
        x = self.transformer(x, layout.rope(index.at), attend, self.modulations(cond))
        if order is None:
            return x.index_select(1, index.place_of[0])  # whose backward keeps no index of x's size
        return torch.take_along_dim(x, index.place_of[..., None], dim=1)

    def modulations(self, cond: Tensor) -> Modulations | None:
        """What AdaLN makes of classes cond [B], the same at all places and in all passes; None where there is none."""
        if self.options.adaln == "none" and not self.options.adaln_head:
            return None
        return self.transformer.modulations(self.class_embedding(cond)[:, None])

    def embed(self, codes: Tensor, cond: Tensor, index: Index) -> Tensor:
        """What places read: codes [B, N, ...], cond [B], W places of the index -> [B, W, D]."""
        places, per_place = index.reads.shape[1:]
        slots = index.reads.expand(len(codes), -1, -1).flatten(1)  # [B, W * R]
        rows = torch.arange(len(codes), device=codes.device)[:, None]
        x = self.read(codes[rows, slots.clamp_min(0)]).unflatten(1, (places, per_place))
        if per_place > 1:
            real = (index.reads >= 0)[..., None]
            x = (x * real).sum(2, keepdim=True) / real.sum(2, keepdim=True).clamp_min(1)
        x, first = x[:, :, 0], index.reads[..., :1]
        if self.learned is not None:
            asked = (LEARNED - first[..., 0]).clamp(0, len(self.learned.weight) - 1)
            x = torch.where(first <= LEARNED, self.learned(asked), x)
        return self.condition.insert(x, first, cond)

    def read(self, codes: Tensor) -> Tensor:
        """Codes [B, W] or [B, W, K] of int64, or [B, W, C] of any float type -> [B, W, D]."""
        return self.code_embedding(codes if self.spec.vocab else codes.to(self.code_embedding.weight.dtype))

    # ------------------------------------------------------------------------------------------------------- decoding

    @property
    def windows(self) -> bool:
        """query() takes drafts, which only discrete codes can equal."""
        return bool(self.spec.vocab)

    def null(self, cond: Tensor) -> Tensor:
        """The condition of the unguided law."""
        return self.condition.null(cond)

    def order(self, images: Tensor, noise: Noise) -> Tensor | None:
        """Per-image orders [B, N] of images [B]; None: the plan's own order is everyone's."""
        return None

    def start(self, cond: Tensor, images: Tensor, noise: Noise, order: Tensor | None = None, known: int = 0) -> State:
        """A fresh state for images [B] (global indices) of classes cond [B]. The first query feeds the condition.

        order [B, N] replaces the unit's own order, of which the first `known` codes will be given, not decoded;
        ValueError where the unit's is fixed.
        """
        self.condition.check(cond)
        if order is not None and not self.any_order:
            raise ValueError(f"unit={self.unit.name} decodes in a fixed order; no other can be asked for")
        order = self.order(images, noise) if order is None else order
        return State(
            cond=cond,
            images=images,
            length=torch.zeros_like(cond),
            codes=self.blank(cond),
            caches=self.new_caches(len(cond)),
            index=self.layout.index(order),
            order=order,
            known=known,
            modulations=self.modulations(cond),
        )

    def blank(self, cond: Tensor) -> Tensor:
        """Codes [B, N + 1, ...] before anything is decoded."""
        shape, books = (len(cond), self.plan.num_codes + 1), len(self.spec.vocab)
        if not books:
            return torch.zeros(*shape, self.spec.channels, dtype=torch.float64, device=cond.device)
        return cond.new_zeros(shape if books == 1 else (*shape, books))

    def groups(self, state: State) -> list[Tensor]:
        """The default schedule: slots [B, g] in decode order."""
        groups = [group.to(state.codes.device).expand(len(state.codes), -1) for group in self.plan.groups]
        return groups if state.order is None else [state.order.gather(1, group) for group in groups]

    def decoded(self, state: State, m: int) -> Tensor:
        """[B, m] codes decoded before each of the next m groups: what slot schedules are functions of."""
        before = self.layout.decoded_before
        group = state.length[:, None] + torch.arange(m, device=state.length.device)
        return before[group.clamp_max(len(before) - 1)]

    def step_share(self, state: State, m: int) -> Tensor:
        """[B, m] in [0, 1]: which of the unit's steps each of the next m groups is, the last one 1."""
        return steps_done(state.length, m, len(self.layout.decoded_before) - 1)

    def visible(self, cond: Tensor, places: Tensor, until: int) -> Tensor:
        """[B | 1, W, until] bool: which of the first places the places [B | 1, W] see."""
        return self.condition.visible(self.layout.mask[places, :until], cond, places)

    def window(self, state: State, m: int) -> tuple[Tensor, int]:
        """Places [B | 1, W] of the next m groups, one row where all images stand together, and how many of the first
        places hold all that they may see."""
        starts, last = self.plan.starts, min(state.longest + m, len(self.plan.groups))
        end, device = int(starts[last]), state.length.device
        until = min(-(-end // self.share) * self.share, self.plan.length)
        if state.together:
            return torch.arange(int(starts[state.longest]), end, device=device)[None], until
        first, width = self.layout.starts[state.length], self.layout.width(state.length, m)
        places = first[:, None] + torch.arange(width, device=device)
        return places.clamp_max(self.plan.length - 1), until

    @property
    def share(self) -> int:
        """Of how many places what a pass sees is a multiple: one, or a quarter of all where graphs are fixed."""
        return -(-self.plan.length // 4) if self.transformer.has_fixed_graphs else 1

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None, pattern: Pattern | None = None) -> Dist:
        """One pass: the laws of the next m groups, slots [B, m, g]; slot -1 pads past an image's end.

        draft [B, m - 1, g, ...] guesses the first m - 1 of them; the law of group i holds if the guesses before it do.
        A pattern other than a window says what slots and draft are: models/tree.py, models/front.py.
        Nothing is committed: guesses and their keys are overwritten by the next pass unless commit() keeps them.
        """
        if pattern is not None:
            return pattern.query(self, state, slots, draft)
        m, g = slots.shape[1:]
        assert (m == 1) == (draft is None), "a window of m groups needs a draft of m - 1"
        state.slots = slots % state.codes.shape[1]  # -1 becomes the last, unread row
        if draft is not None:
            state.put(state.slots[:, :-1], draft)
        places, until = self.window(state, m)  # [B | 1, W]
        index = state.index.window(places)
        x = self.embed(state.codes, state.cond, index)
        if state.together and self.share == 1 and self.condition.is_plain and self.layout.is_open(state.longest, m):
            mask = None
        else:
            mask = self.visible(state.cond, places, until)
        x = self.transformer.decode(x, self.layout.rope(index.at), mask, state.caches, places, until, state.modulations)
        wanted = torch.take_along_dim(state.index.place_of, slots.flatten(1).clamp_min(0), dim=1) - places[:, :1]
        state.fed = places.shape[1]
        wanted = wanted.clamp(0, state.fed - 1)  # [B, m * g] within the window; a padding slot reads anything
        state.hidden = torch.take_along_dim(x, wanted[..., None], dim=1).unflatten(1, (m, g))
        return self.head.dist(state.hidden)

    def commit(self, state: State, codes: Tensor, keep: Tensor | int, path: Tensor | None = None) -> None:
        """Append the first keep[b] in 0..m groups of codes [B, m, g, ...] to each image; the rest becomes scratch.

        path [B, m]: after a query over a tree, its nodes whose groups the codes are.
        """
        if path is not None:
            settle(self, state, path)
        state.put(state.slots, codes)
        state.advance(keep)

    def rewind(self, state: State, length: Tensor, slots: Tensor, codes: Tensor) -> None:
        """Go to length [B] groups, after writing codes [B, m, g, ...] to slots [B, m, g]: how a network that drafts
        follows another. Its keys are kept, so those before length must be of these codes."""
        state.put(slots % state.codes.shape[1], codes)
        state.stand_at(length)

    def select(self, state: State, rows: Tensor) -> State:
        """The state of some of its images, rows [b]; a row may be taken more than once."""
        return state.select(rows)

    def refill(self, state: State, rows: Tensor, fresh: State) -> None:
        """Give rows [b] of a state to the b images of one that was just started."""
        state.refill(rows, fresh)

    def features(self, state: State) -> Tensor:
        """[B, m, g, D] states behind the laws of the latest query."""
        return state.hidden

    def can_draft(self, state: State) -> Tensor:
        """[B] bool: for which images it can draft for another network now."""
        return torch.ones_like(state.length, dtype=torch.bool)

    def learn(self, state: State, slots: Tensor, features: Tensor) -> None:
        """Take note of that network's features [B, m, g, D] of slots [B, m, g]; of no use here."""

    def finish(self, state: State) -> Tensor:
        """Codes [B, N, ...] in the tokenizer's order, after the last group."""
        return state.codes[:, :-1]


def steps_done(length: Tensor, m: int, steps: int) -> Tensor:
    """[B, m] in [0, 1] for the m groups after `length` [B] of them: 0 at the first of several steps, 1 at the last."""
    group = length[:, None] + torch.arange(m, device=length.device)
    return (group / (steps - 1)).clamp_max(1) if steps > 1 else torch.ones_like(group, dtype=torch.float32)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
