"""What a generator is conditioned on: a class, or a caption as the feature vectors of a text encoder.

To all others a condition is a number, cond [B] int64: of a class, or of a caption in the table that the generator holds
for a request. A kind of condition says what the places that read one get, which of them are seen, and which number
stands for none.
"""

from __future__ import annotations

from importlib import import_module
from math import sqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist.models.attention import Attend, masked
from pointillist.models.layout import Layout
from pointillist.models.plan import COND, PREFIX


class Classes(nn.Embedding):
    """One vector a class; the last row is the null class."""

    is_plain = True  # it hides nothing

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__(num_classes + 1, dim)
        self.num_classes = num_classes

    def null(self, cond: Tensor) -> Tensor:
        """The condition [B] of the unguided law."""
        return torch.full_like(cond, self.num_classes)

    def check(self, cond: Tensor) -> None:
        """Raises ValueError for a number that is no class."""
        if bool(((cond < 0) | (cond > self.num_classes)).any()):
            last = self.num_classes - 1
            raise ValueError(f"classes must lie in 0..{last} ({self.num_classes} = null), got {cond.unique().tolist()}")

    def insert(self, x: Tensor, reads: Tensor, cond: Tensor) -> Tensor:
        """x [B, W, D] with the condition at the places whose reads [B | 1, W, 1] say so."""
        return torch.where(reads == COND, self(cond)[:, None], x)

    def attend(self, layout: Layout, cond: Tensor) -> Attend:
        """Attention over a whole sequence."""
        return layout.attend(cond.device)

    def visible(self, mask: Tensor, cond: Tensor, places: Tensor) -> Tensor:
        """What the places [B, W] see, mask [B, W, K] over the first K places, given the condition."""
        return mask


class Captions(nn.Module):
    """T places of projected features, fc2(gelu(fc1(f))), of which the mask shows some (LlamaGen, arXiv 2406.06525).

    features  [n, T, C] of n captions, left padded with zeros
    mask      [n, T] bool: their tokens

    Number n + i is the null caption under the mask of caption i: in the published code the null features replace a
    caption's while its mask stays. A hidden place sees itself, nothing else sees it. The null features are random, and
    no parameter.
    """

    is_plain = False
    features: Tensor
    mask: Tensor
    uncond_embedding: Tensor

    def __init__(self, length: int, channels: int, dim: int) -> None:
        super().__init__()
        self.length = length
        self.fc1, self.fc2 = nn.Linear(channels, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.register_buffer("uncond_embedding", torch.randn(length, channels) / sqrt(channels))
        self.register_buffer("features", torch.empty(0, length, channels), persistent=False)
        self.register_buffer("mask", torch.empty(0, length, dtype=torch.bool), persistent=False)

    def hold(self, features: Tensor, mask: Tensor | None = None) -> None:
        """Replace the table by captions [n, t, C], t <= T, whose tokens are where mask [n, t] is true (None: all are);
        the padding may stand anywhere and hold anything. Raises ValueError for other shapes."""
        weight, (length, channels) = self.fc1.weight, self.uncond_embedding.shape
        if features.ndim != 3 or not 0 < features.shape[1] <= length or features.shape[2] != channels:
            raise ValueError(
                f"this generator reads captions [n, {length}, {channels}] or shorter, got {list(features.shape)}"
            )
        mask = torch.ones(features.shape[:2], dtype=torch.bool) if mask is None else mask
        if mask.shape != features.shape[:2]:
            raise ValueError(f"a mask of captions {list(features.shape)} has the shape of their first two axes, got "
                             f"{list(mask.shape)}")  # fmt: skip
        short = length - features.shape[1]
        features, mask = left_padded(features.to(weight), mask.to(weight.device))
        self.features, self.mask = F.pad(features, (0, 0, short, 0)), F.pad(mask, (short, 0))

    @property
    def count(self) -> int:
        """Captions in the table. Raises ValueError before there are any."""
        if not len(self.mask):
            raise ValueError("this generator draws captions, not classes, and was given none; set captions= or prompt=")
        return len(self.mask)

    def null(self, cond: Tensor) -> Tensor:
        return cond % self.count + self.count

    def check(self, cond: Tensor) -> None:
        """Raises ValueError before there are captions, and for a number that is none."""
        if bool(((cond < 0) | (cond >= 2 * self.count)).any()):
            last = self.count - 1
            raise ValueError(f"captions must lie in 0..{last} (+ {self.count} = null), got {cond.unique().tolist()}")

    def forward(self, cond: Tensor) -> Tensor:
        """[B, T, D] of captions cond [B]."""
        given = (cond < self.count)[:, None, None]
        features = torch.where(given, self.features[cond % self.count], self.uncond_embedding)
        return self.fc2(F.gelu(self.fc1(features), approximate="tanh"))

    def insert(self, x: Tensor, reads: Tensor, cond: Tensor) -> Tensor:
        """As for classes. Windows begin where steps do, so one with fewer than T places holds none of a caption."""
        if x.shape[1] < self.length:
            return x
        token = torch.where(reads == COND, self.length - 1, PREFIX - reads)  # [B | 1, W, 1]
        told = torch.take_along_dim(self(cond), token.clamp(0, self.length - 1), dim=1)
        return torch.where((reads == COND) | (reads <= PREFIX), told, x)

    def attend(self, layout: Layout, cond: Tensor) -> Attend:
        places = torch.arange(layout.plan.length, device=cond.device)[None]
        return masked(self.visible(layout.mask[None], cond, places)[:, None])

    def visible(self, mask: Tensor, cond: Tensor, places: Tensor) -> Tensor:
        """As for classes: [B, W, K] of mask [B | 1, W, K] and places [B | 1, W]."""
        columns = mask.shape[-1]
        hidden = F.pad(~self.mask[cond % self.count], (0, columns - self.length))[:, None]  # [B, 1, K]
        itself = places[..., None] == torch.arange(columns, device=places.device)
        return mask & (~hidden | itself)


def left_padded(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """features [n, T, C] with their tokens, where mask [n, T] is true or not 0, last and in order, zeros before them;
    and the mask of that, bool."""
    order = mask.bool().long().argsort(dim=1, stable=True)
    mask = mask.bool().gather(1, order)
    return torch.take_along_dim(features, order[..., None], dim=1) * mask[..., None].to(features.dtype), mask


def check_options(options: Any) -> None:
    """Raises ValueError for options of a generator that say of captions what cannot be."""
    length, channels = options.caption_length, options.caption_channels
    if min(length, channels) < 0 or (length > 0) != (channels > 0):
        raise ValueError(
            "model.caption_length and model.caption_channels must both be 0 (classes) or both at least 1, got "
            f"{length} and {channels}"
        )
    if length and options.attention != "sdpa":
        raise ValueError(f"captions hide places of their own: use model.attention=sdpa, got {options.attention}")
    if length and (options.adaln != "none" or options.adaln_head):
        raise ValueError("AdaLN is of one class, not of a caption's tokens; leave model.adaln and model.adaln_head")


def no_captions(unit: str, embed: Any) -> ValueError:
    """The error for a unit that does not embed its places with `embed`; it names those that do."""
    names = sorted(path.stem for path in (Path(__file__).parent / "units").glob("*.py"))
    kinds = {name: getattr(import_module(f"pointillist.models.units.{name}"), "Generator", None) for name in names}
    fitting = ", ".join(name for name, kind in kinds.items() if kind is None or kind.embed is embed)
    return ValueError(f"unit={unit} reads a class and no caption; units that read one: {fitting}")
