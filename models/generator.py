"""Generator: transformer + prediction unit + head = p(codes | condition).

Training reads the whole planned sequence at once; decoding feeds windows of the same places through a cache, under
rows of the same mask. `query(m=1)` is ancestral decoding, `query(m > 1)` with a draft is verification.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models.attention import Attend, planned
from pointillist.models.dist import Categorical, Noise, at_least_fp32
from pointillist.models.plan import COND, LEARNED, Plan
from pointillist.models.rope import rope_table
from pointillist.models.transformer import SIZES, Cache, Shape, Transformer


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
    attention: Literal["sdpa", "matmul", "flex", "xformers"] = "sdpa"  # in training; see models/attention.py

    def __post_init__(self) -> None:
        self.shape()
        for name in ("dropout", "token_dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} must lie in [0, 1), got {getattr(self, name)}")

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
class Index:
    """A plan's index tensors with a batch axis: 1 for a fixed plan, B where each image has its own order.

    reads [B | 1, L, R], at [B | 1, L], place_of [B | 1, N]
    """

    reads: Tensor
    at: Tensor
    place_of: Tensor


@dataclass
class State:
    """Decoding state of B images. `length` is the truth; codes and caches beyond it are scratch.

    order    [B, N] per-image order of the slots, or None where the plan's own is everyone's
    length   [B] committed groups
    longest  an upper bound of length, known without asking the device
    codes    [B, N + 1] by slot; the last column takes what has no slot (-1)
    slots    [B, m, g] of the latest query, which commit() writes to
    """

    cond: Tensor
    length: Tensor
    codes: Tensor
    caches: list[Cache]
    index: Index
    order: Tensor | None = None
    longest: int = 0
    slots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


class Generator(nn.Module):
    """p(codes | class) for one book of discrete codes and any unit with a fixed plan.

    A unit that needs more than its plan defines a subclass of this name in its own file; `unit` are its options.

    Raises ValueError for codes that the network cannot hold (continuous, several books).
    """

    streams = 1  # forward rows an image

    def __init__(self, options: Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Any = None) -> None:
        super().__init__()
        if len(spec.vocab) != 1:
            raise ValueError(
                f"this generator predicts one book of discrete codes; the tokenizer has vocab {spec.vocab}"
            )
        assert plan.num_codes == spec.length, f"plan predicts {plan.num_codes} codes, the tokenizer has {spec.length}"
        self.options, self.unit, self.spec, self.plan, self.num_classes = options, unit, spec, plan, num_classes
        shape, vocab = options.shape(), spec.vocab[0]
        self.code_embedding = nn.Embedding(vocab, shape.dim)
        self.class_embedding = nn.Embedding(num_classes + 1, shape.dim)  # the last row is the null class
        self.learned = nn.Embedding(plan.num_learned, shape.dim) if plan.num_learned else None
        self.embedding_drop = nn.Dropout(options.token_dropout)
        self.transformer = Transformer(shape)
        self.head = nn.Linear(shape.dim, vocab, bias=False)
        for name in ("reads", "at", "place_of", "mask", "starts", "decoded_before"):
            self.register_buffer(name, getattr(plan, name), persistent=False)
        self._rope: dict[torch.device, Tensor] = {}
        self._attend: dict[torch.device, Attend] = {}
        self.apply(_initialise)
        nn.init.zeros_(self.head.weight)  # LlamaGen: the untrained model is uniform, its loss is log V

    # ------------------------------------------------------------------------------------------------------- training

    def forward(self, codes: Tensor, cond: Tensor, order: Tensor | None = None) -> Tensor:
        """Teacher-forced logits [B, N, V], by slot, of codes [B, N] given classes cond [B] (num_classes = null).

        order [B, N] gives each image its own order: what the plan says of slot j then holds for slot order[j].
        """
        index = self.indices(order)
        x = self.embedding_drop(self.embed(codes, cond, index.reads, index.at))  # [B, L, D]
        x = self.transformer(x, self.rope(index.at), self.attend(x.device))
        return self.head(torch.take_along_dim(x, index.place_of[..., None], dim=1))

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None) -> dict[str, Tensor]:
        """Mean cross-entropy in nats a code. In training the class is dropped with options.label_dropout."""
        if self.training and self.options.label_dropout:
            dropped = torch.rand(cond.shape, device=cond.device) < self.options.label_dropout
            cond = cond.masked_fill(dropped, self.num_classes)
        logits = self(codes, cond, order)
        return {"loss": F.cross_entropy(at_least_fp32(logits).flatten(0, 1), codes.flatten())}

    def indices(self, order: Tensor | None = None) -> Index:
        """The plan's index tensors, permuted by order [B, N] if there is one."""
        if order is None:
            return Index(self.reads[None], self.at[None], self.place_of[None])
        batch = len(order)
        reads, at = self.reads.expand(batch, -1, -1), self.at.expand(batch, -1)
        moved = order.gather(1, reads.clamp_min(0).flatten(1)).view_as(reads)
        return Index(
            reads=torch.where(reads >= 0, moved, reads),
            at=torch.where(at >= 0, order.gather(1, at.clamp_min(0)), at),
            place_of=torch.empty_like(order).scatter_(1, order, self.place_of.expand(batch, -1)),
        )

    def attend(self, device: torch.device) -> Attend:
        if device not in self._attend:
            self._attend[device] = planned(self.plan, self.options.attention, device)
        return self._attend[device]

    def rope(self, at: Tensor) -> Tensor:
        """Rotary rows [B | 1, W, d / 2, 2] of places that stand at `at`; fp32 even where the weights are bf16."""
        if at.device not in self._rope:
            nowhere = torch.tensor([[-1, -1]])  # the last row, which at = -1 finds
            table = rope_table(torch.cat([self.plan.grid, nowhere]), self.transformer.shape.head_dim)
            self._rope[at.device] = table.to(at.device)
        return self._rope[at.device][at]

    def embed(self, codes: Tensor, cond: Tensor, reads: Tensor, at: Tensor) -> Tensor:
        """What places read: codes [B, N], cond [B], reads [B | 1, W, R], at [B | 1, W] -> [B, W, D]."""
        places, per_place = reads.shape[1:]
        slots = reads.expand(len(codes), -1, -1).flatten(1)  # [B, W * R]
        x = self.code_embedding(codes.gather(1, slots.clamp_min(0))).unflatten(1, (places, per_place))
        if per_place > 1:
            real = (reads >= 0)[..., None]
            x = (x * real).sum(2, keepdim=True) / real.sum(2, keepdim=True).clamp_min(1)
        x, first = x[:, :, 0], reads[..., :1]
        if self.learned is not None:
            x = torch.where(first <= LEARNED, self.learned((LEARNED - first[..., 0]).clamp_min(0)), x)
        return torch.where(first == COND, self.class_embedding(cond)[:, None], x)

    # ------------------------------------------------------------------------------------------------------- decoding

    def null(self, cond: Tensor) -> Tensor:
        """The condition of the unguided law."""
        return torch.full_like(cond, self.num_classes)

    def order(self, images: Tensor, noise: Noise) -> Tensor | None:
        """Per-image orders [B, N] of images [B]; None: the plan's own order is everyone's."""
        return None

    def start(self, cond: Tensor, images: Tensor, noise: Noise) -> State:
        """A fresh state for images [B] (global indices) of classes cond [B]. The first query feeds the condition."""
        if bool(((cond < 0) | (cond > self.num_classes)).any()):
            last = self.num_classes - 1
            raise ValueError(f"classes must lie in 0..{last} ({self.num_classes} = null), got {cond.unique().tolist()}")
        order = self.order(images, noise)
        return State(
            cond=cond,
            length=torch.zeros_like(cond),
            codes=cond.new_zeros(len(cond), self.plan.num_codes + 1),
            caches=self.transformer.new_caches(len(cond), self.plan.length),
            index=self.indices(order),
            order=order,
        )

    def groups(self, state: State) -> list[Tensor]:
        """The default schedule: slots [B, g] in decode order."""
        groups = [group.to(state.codes.device).expand(len(state.codes), -1) for group in self.plan.groups]
        return groups if state.order is None else [state.order.gather(1, group) for group in groups]

    def decoded(self, state: State, m: int) -> Tensor:
        """[B, m] codes decoded before each of the next m groups: what slot schedules are functions of."""
        group = state.length[:, None] + torch.arange(m, device=state.length.device)
        return self.decoded_before[group.clamp_max(len(self.decoded_before) - 1)]

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None) -> Categorical:
        """One pass: the laws [B, m, g, V] of the next m groups, slots [B, m, g]; slot -1 pads past an image's end.

        draft [B, m - 1, g] guesses the first m - 1 of them; the law of group i holds if the guesses before it do.
        Nothing is committed: guesses and their keys are overwritten by the next pass unless commit() keeps them.
        """
        m, g = slots.shape[1:]
        assert (m == 1) == (draft is None), "a window of m groups needs a draft of m - 1"
        state.slots = slots % state.codes.shape[1]  # -1 becomes the last, unread column
        if draft is not None:
            state.codes.scatter_(1, state.slots[:, :-1].flatten(1), draft.flatten(1))
        first = self.starts[state.length]  # [B]
        last = state.longest + m
        width = self._width(state, m)
        places = (first[:, None] + torch.arange(width, device=first.device)).clamp_max(self.plan.length - 1)  # [B, W]
        until = min(int(self.plan.starts[min(last, len(self.plan.groups))]), self.plan.length)
        reads = torch.take_along_dim(state.index.reads, places[..., None], dim=1)
        at = torch.take_along_dim(state.index.at, places, dim=1)
        x = self.embed(state.codes, state.cond, reads, at)
        x = self.transformer.decode(x, self.rope(at), self.mask[places, :until], state.caches, places)
        wanted = torch.take_along_dim(state.index.place_of, slots.flatten(1).clamp_min(0), dim=1) - first[:, None]
        wanted = wanted.clamp(0, width - 1)  # [B, m * g] within the window; a padding slot reads anything
        logits = self.head(torch.take_along_dim(x, wanted[..., None], dim=1))
        return Categorical(at_least_fp32(logits).unflatten(1, (m, g)))

    def _width(self, state: State, m: int) -> int:
        """W, places of the widest window of m steps in the batch."""
        steps = self.plan.starts.diff()
        if bool((steps == steps[0]).all()):
            return m * int(steps[0])
        return int((self.starts[(state.length + m).clamp_max(len(steps))] - self.starts[state.length]).max())

    def commit(self, state: State, codes: Tensor, keep: Tensor | int) -> None:
        """Append the first keep[b] in 0..m groups of codes [B, m, g] to each image; the rest becomes scratch."""
        state.codes.scatter_(1, state.slots.flatten(1), codes.flatten(1))
        state.length = state.length + keep
        state.longest = state.longest + keep if isinstance(keep, int) else int(state.length.max())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
