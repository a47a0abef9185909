"""Tree: guesses of the next groups that branch, verified in one pass (SpecInfer, Miao et al., arXiv 2305.09781).

Every node sees the committed codes and the guesses on its own way from the root, nothing of other branches. Keys of
all nodes go to rows behind the cache's own; those on the way that is kept are then moved to their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Dist
from pointillist.models.layout import Index


@dataclass(frozen=True)
class Tree:
    """Node 0 stands for the next group, given what is committed. Every other node holds a guess of its parent's group,
    and stands for the group after that.

    parents  of nodes 1, 2, ...; each comes before its children
    """

    parents: tuple[int, ...]

    @classmethod
    @lru_cache(maxsize=64)  # one a pass, few in all
    def paths(cls, width: int, length: int) -> Tree:
        """`width` chains of `length` guesses that share only the root; node 1 + i * length + d holds guess d of chain
        i."""
        chain = range(width * length)
        return cls(tuple(0 if i % length == 0 else i for i in chain))

    def __len__(self) -> int:
        return 1 + len(self.parents)

    @cached_property
    def depth(self) -> Tensor:
        """[T] guesses on the way from the root."""
        depth = [0]
        for parent in self.parents:
            depth.append(depth[parent] + 1)
        return torch.tensor(depth)

    @property
    def levels(self) -> int:
        return int(self.depth.max()) + 1

    @cached_property
    def sees(self) -> Tensor:
        """[T, T] bool: is the column's node on the way from the root to the row's?"""
        sees = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self.parents, 1):
            sees[node] |= sees[parent]
        return sees

    def query(self, model: Any, state: Any, slots: Tensor, draft: Tensor | None) -> Dist:
        """The laws of the nodes' groups, slots [B, T, g], given guesses draft [B, T - 1, g, ...]."""
        assert draft is not None, "a tree has guesses"
        return _query(model, state, slots, draft, self)


@dataclass
class Branches:
    """What a pass over a tree leaves for the commit: slots [B, T, g] and places [B, T, W] of its nodes."""

    slots: Tensor
    places: Tensor


def _query(model: Any, state: Any, slots: Tensor, draft: Tensor, tree: Tree) -> Dist:
    batch, nodes = slots.shape[:2]
    places, real = _places(model, state, tree)
    width, rows = places.shape[2], slice(model.plan.length, model.plan.length + places[0].numel())
    index = state.index.window(places.flatten(1))
    codes = _codes(state, slots, draft, tree).flatten(0, 1)
    x = model.embed(codes, state.cond.repeat_interleave(nodes, 0), _by_node(index, nodes))
    for cache in state.caches:
        cache.grow(rows.stop)
    x = model.transformer.decode(
        x.unflatten(0, (batch, nodes)).flatten(1, 2),
        model.layout.rope(index.at),
        _mask(model, state, places, real, tree),
        state.caches,
        torch.arange(rows.start, rows.stop, device=slots.device)[None],
        rows.stop,
        state.modulations,
    )
    wanted = torch.take_along_dim(state.index.place_of, slots.flatten(1).clamp_min(0), dim=1).view_as(slots)
    wanted = (wanted - places[..., :1]).clamp(0, width - 1)  # [B, T, g] within the node
    x = x.unflatten(1, (nodes, width))
    state.fed, state.branches = nodes * width, Branches(slots, places)
    state.hidden = torch.take_along_dim(x, wanted[..., None], dim=2)
    return model.head.dist(state.hidden)


def settle(model: Any, state: Any, path: Tensor) -> None:
    """Make the nodes path [B, m] of the latest pass its window: their keys, slots and features."""
    slots, places = state.branches.slots, state.branches.places
    rows = model.plan.length + path[..., None] * places.shape[2] + torch.arange(places.shape[2], device=path.device)
    places = torch.take_along_dim(places, path[..., None], dim=1)
    for cache in state.caches:
        cache.move(rows.flatten(1), places.flatten(1))
    state.slots = torch.take_along_dim(slots, path[..., None], dim=1) % state.codes.shape[1]
    state.hidden = torch.take_along_dim(state.hidden, path[..., None, None], dim=1)


def _places(model: Any, state: Any, tree: Tree) -> tuple[Tensor, Tensor]:
    """Places [B, T, W] of the nodes' groups, and which of them are real, bool; the others repeat a real one."""
    starts, plan = model.layout.starts, model.plan
    step = (state.length[:, None] + tree.depth.to(starts.device)).clamp_max(len(starts) - 1)
    first, until = starts[step], starts[(step + 1).clamp_max(len(starts) - 1)]
    width = int(plan.starts.diff().max())
    places = first[..., None] + torch.arange(width, device=starts.device)
    real = places < until[..., None]
    return torch.where(real, places, first[..., None]).clamp_max(plan.length - 1), real


def _codes(state: Any, slots: Tensor, draft: Tensor, tree: Tree) -> Tensor:
    """Codes [B, T, N + 1, ...] as every node sees them."""
    codes = state.codes[:, None].repeat(1, len(tree), *[1] * (state.codes.ndim - 1))
    rows, held = torch.arange(len(slots), device=slots.device)[:, None], slots % state.codes.shape[1]
    for node, parent in enumerate(tree.parents, 1):
        codes[:, node] = codes[:, parent]
        codes[rows, node, held[:, parent]] = draft[:, node - 1].to(codes.dtype)
    return codes


def _by_node(index: Index, nodes: int) -> Index:
    """An index of places [B, T * W] as one of [B * T, W]."""
    reads, predicts, at = (x.unflatten(1, (nodes, -1)).flatten(0, 1) for x in (index.reads, index.predicts, index.at))
    return Index(reads, predicts, at, index.place_of)


def _mask(model: Any, state: Any, places: Tensor, real: Tensor, tree: Tree) -> Tensor:
    """[B, T * W, L + T * W] bool: the committed places, then the window's own rows."""
    width, flat = places.shape[2], places.flatten(1)
    visible = model.visible(state.cond, flat, model.plan.length)  # [B, T * W, L]
    columns = torch.arange(model.plan.length, device=places.device)
    before = visible & (columns < model.layout.starts[state.length][:, None, None])
    sees = tree.sees.to(places.device).repeat_interleave(width, 0).repeat_interleave(width, 1)
    window = torch.take_along_dim(visible, flat[:, None], dim=2) & sees & real.flatten(1)[:, None]
    return torch.cat([before, window], dim=-1)
