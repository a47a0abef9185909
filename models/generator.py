"""Generator: transformer + prediction unit + head = p(codes | condition).

Training reads the whole planned sequence at once; decoding feeds windows of the same places through a cache, under
rows of the same mask. `query(m=1)` is ancestral decoding, `query(m > 1)` with a draft is verification.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models.dist import Dist, Noise
from pointillist.models.front import Front
from pointillist.models.heads import CodeEmbedding, head_of
from pointillist.models.layout import Index, Layout
from pointillist.models.plan import COND, LEARNED, Plan
from pointillist.models.transformer import SIZES, Cache, Shape, Transformer
from pointillist.models.tree import Branches, Tree, settle

Pattern = Tree | Front  # how the groups of a pass depend on one another, if they are no window

SAMPLING = {"attention", "flow_steps"}  # options that may change after training


@dataclass
class Options:
    """The generator's network. A size names dim, depth and num_heads; each may be overridden."""

    size: str = "micro"  # nano | micro | mini | small | B | L | XL | XXL | 1B | 3B
    dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None  # fewer than num_heads: grouped-query attention
    qk_norm: bool = False  # RMSNorm of queries and keys
    dropout: float = 0.1  # of what attention and feed-forward add to the residual stream
    token_dropout: float = 0.1  # of the embedded sequence
    label_dropout: float = 0.1  # the class becomes the null class, which guidance needs
    books: Literal["parallel", "chain"] = "parallel"  # several books a code: at once, or each given those before
    flow_steps: int = 25  # of the solver that draws continuous codes
    attention: Literal["sdpa", "matmul", "flex", "xformers"] = "sdpa"  # of whole sequences; see models/attention.py

    def __post_init__(self) -> None:
        self.shape()
        for name in ("dropout", "token_dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.flow_steps < 1:
            raise ValueError(f"model.flow_steps must be at least 1, got {self.flow_steps}")

    def shape(self) -> Shape:
        """Raises ValueError for an unknown size or widths that do not divide."""
        if self.size not in SIZES:
            raise ValueError(f"unknown model.size '{self.size}'; choose one of {', '.join(SIZES)}")
        given = {k: v for k in ("dim", "depth", "num_heads") if (v := getattr(self, k)) is not None}
        numbers = SIZES[self.size] | given
        return Shape(
            **numbers,
            num_kv_heads=self.num_kv_heads or numbers["num_heads"],
            qk_norm=self.qk_norm,
            dropout=self.dropout,
        )


@dataclass
class State:
    """Decoding state of B images. `length` is the truth; codes and caches beyond it are scratch.

    images   [B] global indices
    order    [B, N] per-image order of the slots, or None where the plan's own is everyone's
    known    how many codes of the order are given beforehand
    length   [B] committed groups
    longest  an upper bound of length, known without asking the device
    codes    [B, N + 1], [B, N + 1, K] or [B, N + 1, C] by slot; the last row takes what has no slot (-1)
    slots    [B, m, g] of the latest query, which commit() writes to
    hidden   [B, m, g, D] states of the transformer that its laws came from
    fed      places an image that the network read for it
    branches of the latest query, if it was over a tree
    """

    cond: Tensor
    images: Tensor
    length: Tensor
    codes: Tensor
    caches: list[Cache]
    index: Index
    order: Tensor | None = None
    known: int = 0
    longest: int = 0
    slots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    fed: int = 0
    branches: Branches | None = None

    def put(self, slots: Tensor, codes: Tensor) -> None:
        """Write codes [B, m, g, ...] to slots [B, m, g]."""
        rows = torch.arange(len(slots), device=slots.device)[:, None]
        self.codes[rows, slots.flatten(1)] = codes.flatten(1, 2).to(self.codes.dtype)


class Generator(nn.Module):
    """p(codes | class) for codes of any kind and any unit with a fixed plan.

    A unit that needs more than its plan defines a subclass of this name in its own file; `unit` are its options.
    """

    streams = 1  # forward rows an image
    any_order = False  # start() takes per-image orders
    any_subset = False  # query() gives the law of any unknown slots given any known ones
    joint = False  # codes of a group depend on one another
    modulated = False  # the transformer is: AdaLN
    reads_lift = False  # the constructor takes the tokenizer's lift

    def __init__(self, options: Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Any = None) -> None:
        super().__init__()
        assert plan.num_codes == spec.length, f"plan predicts {plan.num_codes} codes, the tokenizer has {spec.length}"
        self.options, self.unit, self.spec, self.plan, self.num_classes = options, unit, spec, plan, num_classes
        shape = replace(options.shape(), modulated=self.modulated)
        self.code_embedding = self.new_code_embedding(shape.dim)
        self.class_embedding = nn.Embedding(num_classes + 1, shape.dim)  # the last row is the null class
        self.learned = nn.Embedding(plan.num_learned, shape.dim) if plan.num_learned else None
        self.embedding_drop = nn.Dropout(options.token_dropout)
        self.transformer = Transformer(shape)
        self.head = self.new_head(shape.dim)
        self.layout = self.new_layout(plan)
        self.apply(_initialise)
        for name, weight in self.head.named_parameters():
            if name in ("weight", "write.weight", "write.bias") or "modulate" in name:
                nn.init.zeros_(weight)  # LlamaGen: the untrained model is uniform, its loss is log V

    def new_code_embedding(self, dim: int) -> nn.Module | None:
        return CodeEmbedding(self.spec.vocab, dim) if self.spec.vocab else nn.Linear(self.spec.channels, dim)

    def new_head(self, dim: int) -> nn.Module:
        return head_of(self.spec, dim, self.options.books == "chain", self.options.flow_steps)

    def new_layout(self, plan: Plan) -> Layout:
        return Layout(plan, self.options.attention, self.options.shape().head_dim)

    def new_caches(self, batch: int) -> list[Cache]:
        return self.transformer.new_caches(batch, self.plan.length)

    def cast(self, dtype: torch.dtype) -> None:
        """Turn the weights to another floating type, for sampling."""
        self.to(dtype)

    # ------------------------------------------------------------------------------------------------------- training

    def forward(self, codes: Tensor, cond: Tensor, order: Tensor | None = None) -> Tensor:
        """Teacher-forced logits by slot, [B, N, V] or [B, N, K, V], of codes [B, N] or [B, N, K] given classes
        cond [B] (num_classes = null). Continuous codes [B, N, C]: the hidden states [B, N, D] that their laws hang on.

        order [B, N] gives each image its own order: what the plan says of slot j then holds for slot order[j].
        """
        return self.head(self.hidden(codes, cond, order), codes)

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, progress: float = 1) -> dict[str, Tensor]:
        """Mean loss of a code: nats, or the squared error of a flow. In training the class is dropped with
        options.label_dropout. progress in [0, 1] is the share of the training done, for units that change on the way.
        """
        return {"loss": self.head.loss(self.hidden(codes, self.drop(cond), order), codes).mean()}

    def drop(self, cond: Tensor) -> Tensor:
        """cond [B] with the null class for a share of the images, in training."""
        if not (self.training and self.options.label_dropout):
            return cond
        dropped = torch.rand(cond.shape, device=cond.device) < self.options.label_dropout
        return cond.masked_fill(dropped, self.num_classes)

    def hidden(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, layout: Layout | None = None) -> Tensor:
        """[B, N, D] by slot: what the head makes each code's law of."""
        layout = layout or self.layout
        index = layout.index(order)
        x = self.embedding_drop(self.embed(codes, cond, index))  # [B, L, D]
        x = self.transformer(x, layout.rope(index.at), layout.attend(x.device))
        return torch.take_along_dim(x, index.place_of[..., None], dim=1)

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
            x = torch.where(first <= LEARNED, self.learned((LEARNED - first[..., 0]).clamp_min(0)), x)
        return torch.where(first == COND, self.class_embedding(cond)[:, None], x)

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
        return torch.full_like(cond, self.num_classes)

    def order(self, images: Tensor, noise: Noise) -> Tensor | None:
        """Per-image orders [B, N] of images [B]; None: the plan's own order is everyone's."""
        return None

    def start(self, cond: Tensor, images: Tensor, noise: Noise, order: Tensor | None = None, known: int = 0) -> State:
        """A fresh state for images [B] (global indices) of classes cond [B]. The first query feeds the condition.

        order [B, N] replaces the unit's own order, of which the first `known` codes will be given, not decoded;
        ValueError where the unit's is fixed.
        """
        if bool(((cond < 0) | (cond > self.num_classes)).any()):
            last = self.num_classes - 1
            raise ValueError(f"classes must lie in 0..{last} ({self.num_classes} = null), got {cond.unique().tolist()}")
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
        layout, first = self.layout, self.layout.starts[state.length]  # [B]
        last, width = state.longest + m, self.layout.width(state.length, m)
        places = (first[:, None] + torch.arange(width, device=first.device)).clamp_max(self.plan.length - 1)  # [B, W]
        until = min(int(self.plan.starts[min(last, len(self.plan.groups))]), self.plan.length)
        index = state.index.window(places)
        x = self.embed(state.codes, state.cond, index)
        x = self.transformer.decode(x, layout.rope(index.at), layout.mask[places, :until], state.caches, places)
        wanted = torch.take_along_dim(state.index.place_of, slots.flatten(1).clamp_min(0), dim=1) - first[:, None]
        wanted = wanted.clamp(0, width - 1)  # [B, m * g] within the window; a padding slot reads anything
        state.fed, state.hidden = width, torch.take_along_dim(x, wanted[..., None], dim=1).unflatten(1, (m, g))
        return self.head.dist(state.hidden)

    def commit(self, state: State, codes: Tensor, keep: Tensor | int, path: Tensor | None = None) -> None:
        """Append the first keep[b] in 0..m groups of codes [B, m, g, ...] to each image; the rest becomes scratch.

        path [B, m]: after a query over a tree, its nodes whose groups the codes are.
        """
        if path is not None:
            settle(self, state, path)
        state.put(state.slots, codes)
        state.length = state.length + keep
        state.longest = state.longest + keep if isinstance(keep, int) else int(state.length.max())

    def rewind(self, state: State, length: Tensor, slots: Tensor, codes: Tensor) -> None:
        """Go to length [B] groups, after writing codes [B, m, g, ...] to slots [B, m, g]: how a network that drafts
        follows another. Its keys are kept, so those before length must be of these codes."""
        state.put(slots % state.codes.shape[1], codes)
        state.length, state.longest = length, int(length.max())

    def select(self, state: State, rows: Tensor) -> State:
        """The state of some of its images, rows [b]; a row may be taken more than once."""
        index = state.index
        if len(index.at) > 1:
            index = Index(index.reads[rows], index.predicts[rows], index.at[rows], index.place_of[rows])
        return replace(
            state,
            cond=state.cond[rows],
            images=state.images[rows],
            length=state.length[rows],
            codes=state.codes[rows],
            caches=[Cache(cache.k[rows], cache.v[rows]) for cache in state.caches],
            index=index,
            order=None if state.order is None else state.order[rows],
        )

    def features(self, state: State) -> Tensor:
        """[B, m, g, D] states behind the laws of the latest query."""
        return state.hidden

    def can_draft(self, state: State) -> bool:
        """Whether it can draft for another network now."""
        return True

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
