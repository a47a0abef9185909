"""Quantisers: vectors z [..., C] -> (the vectors the decoder sees, codes); gradients pass straight through."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 2**26  # distances between vectors and codes that are in memory together


class FSQ(nn.Module):
    """Finite scalar quantisation (Mentzer et al., arXiv 2309.15505): each channel rounds to one of its levels.

    No codebook, no auxiliary loss, no collapse. codes are mixed radix with channel 0 least significant; vectors lie
    in [-1, 1]. Constants (1 + 1e-3, atanh shift) are those of FlexTok, Cosmos and vector-quantize-pytorch.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"tokenizer.levels must be integers of at least 2, got {levels}")
        self.channels, self.vocab = len(levels), prod(levels)
        level = torch.tensor(levels)
        radius = (level - 1) * (1 + 1e-3) / 2
        offset = torch.where(level % 2 == 0, 0.5, 0.0)
        basis = torch.cat([torch.ones(1, dtype=torch.long), level[:-1].cumprod(0)])
        for name, value in {"level": level, "radius": radius, "offset": offset, "basis": basis}.items():
            self.register_buffer(name, value, persistent=False)

    def fit(self, z: Tensor) -> None:
        """Nothing depends on data."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [..., C] -> vectors [..., C], codes [...] int64, auxiliary loss (zero)."""
        shift = torch.atanh(self.offset / self.radius)
        bounded = torch.tanh(z.float() + shift) * self.radius - self.offset
        whole = bounded + (bounded.round() - bounded).detach()
        codes = ((whole.detach().round().long() + self.level // 2) * self.basis).sum(-1)
        return whole / (self.level // 2), codes, z.new_zeros(())

    def embed(self, codes: Tensor) -> Tensor:
        """codes [...] -> vectors [..., C]."""
        digit = codes[..., None] // self.basis % self.level
        return (digit - self.level // 2) / (self.level // 2)


class VQ(nn.Module):
    """Vector quantisation (van den Oord et al., arXiv 1711.00937) by cosine similarity, codebook by moving averages.

    Vectors are unit length. `fit` takes the first codebook from data; a code whose average count falls under `dead` is
    restarted from the batch. Without both, most codes are never used.
    """

    def __init__(self, vocab: int, channels: int, decay: float = 0.99, commitment: float = 0.25) -> None:
        super().__init__()
        if vocab < 2 or channels < 1:
            raise ValueError(f"tokenizer.vocab must be at least 2 and channels at least 1, got {vocab} and {channels}")
        self.vocab, self.channels, self.decay, self.commitment, self.dead = vocab, channels, decay, commitment, 0.5
        self.register_buffer("codebook", F.normalize(torch.randn(vocab, channels), dim=-1))
        self.register_buffer("count", torch.ones(vocab))

    def fit(self, z: Tensor) -> None:
        """Start from encoder outputs z [n, C], n >= vocab."""
        self.codebook.copy_(F.normalize(starts(z, self.vocab).float(), dim=-1))
        self.count.fill_(1.0)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [..., C] -> unit vectors [..., C], codes [...] int64, commitment loss."""
        unit = F.normalize(z.float(), dim=-1)
        codes = (unit @ self.codebook.T).argmax(-1)
        vectors = self.embed(codes)
        loss = self.commitment * (unit - vectors).square().sum(-1).mean()
        if self.training:
            self._update(unit.detach().flatten(0, -2), codes.flatten())
        return unit + (vectors - unit).detach(), codes, loss

    def embed(self, codes: Tensor) -> Tensor:
        return self.codebook[codes]

    @torch.no_grad()
    def _update(self, unit: Tensor, codes: Tensor) -> None:
        count = torch.bincount(codes, minlength=self.vocab).to(self.count)
        total = torch.zeros_like(self.codebook).index_add_(0, codes, unit)
        self.count.lerp_(count, 1 - self.decay)
        moved = F.normalize(self.codebook.lerp(F.normalize(total, dim=-1), 1 - self.decay), dim=-1)
        self.codebook.copy_(torch.where(count[:, None] > 0, moved, self.codebook))
        dead = self.count < self.dead
        fresh = unit[torch.randint(len(unit), (self.vocab,), device=unit.device)]
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.count.masked_fill_(dead, 1.0)


class Cosine(nn.Module):
    """Vector quantisation by cosine similarity with a codebook learned by gradient (LlamaGen, arXiv 2406.06525).

    The rows [V, C] may have any length: they and z are scaled to unit length on every use, and so is what the decoder
    sees. No moving averages, no restart of dead codes.
    """

    def __init__(self, vocab: int, channels: int, commitment: float = 0.25) -> None:
        super().__init__()
        if vocab < 2 or channels < 1:
            raise ValueError(f"tokenizer.vocab must be at least 2 and channels at least 1, got {vocab} and {channels}")
        self.vocab, self.channels, self.commitment = vocab, channels, commitment
        self.rows = nn.Parameter(F.normalize(torch.randn(vocab, channels), dim=-1))

    @property
    def codebook(self) -> Tensor:
        """Unit vectors [V, C]."""
        return F.normalize(self.rows.float(), dim=-1)

    @torch.no_grad()
    def fit(self, z: Tensor) -> None:
        """Start from encoder outputs z [n, C], n >= vocab."""
        self.rows.copy_(F.normalize(starts(z, self.vocab).float(), dim=-1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [..., C] -> unit vectors [..., C], codes [...] int64, codebook and commitment loss."""
        codes = self.lookup(z)
        unit, vectors = F.normalize(z.float(), dim=-1), self.embed(codes)
        return unit + (vectors - unit).detach(), codes, sum(self.losses(unit, vectors))

    def lookup(self, z: Tensor) -> Tensor:
        """z [..., C] -> codes [...] int64."""
        return nearest(F.normalize(z.float(), dim=-1), self.codebook)

    def losses(self, unit: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Of unit vectors [..., C] and those of their codes: what draws codes to them, and they to their codes."""
        return F.mse_loss(vectors, unit.detach()), self.commitment * F.mse_loss(unit, vectors.detach())

    def embed(self, codes: Tensor) -> Tensor:
        return F.normalize(self.rows[codes].float(), dim=-1)


class Product(nn.Module):
    """Product quantisation: the channels in as many groups as there are books, each with its own quantiser.

    z [..., C] <-> codes [..., books], C the sum of the books' channels, in order; the loss is the books' mean.
    """

    def __init__(self, books: list[nn.Module]) -> None:
        super().__init__()
        self.books = nn.ModuleList(books)

    def fit(self, z: Tensor) -> None:
        for book, part in zip(self.books, self._split(z), strict=True):
            book.fit(part)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = [book(part) for book, part in zip(self.books, self._split(z), strict=True)]
        vectors, codes, losses = zip(*parts, strict=True)
        return torch.cat(vectors, -1), torch.stack(codes, -1), torch.stack(losses).mean()

    def embed(self, codes: Tensor) -> Tensor:
        """codes [..., books] -> vectors [..., C]. Raises ValueError for another number of books."""
        if codes.shape[-1] != len(self.books):
            raise ValueError(f"codes must be [..., {len(self.books)}], one a book, got {tuple(codes.shape)}")
        return torch.cat([book.embed(part) for book, part in zip(self.books, codes.unbind(-1), strict=True)], -1)

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.split([book.channels for book in self.books], -1)


def starts(z: Tensor, vocab: int) -> Tensor:
    """Different ones of the vectors z [n, C], as many as there are codes. Raises ValueError where there are fewer."""
    if len(z) < vocab:
        raise ValueError(f"tokenizer.vocab={vocab} needs as many vectors to start from, the data give {len(z)}")
    return z[torch.randperm(len(z), device=z.device)[:vocab]]


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Index [...] of the vector of codebook [V, C] with the least L2 distance to z [..., C]."""
    codebook = codebook.to(z.dtype)
    lengths = codebook.square().sum(-1)
    with torch.autocast(z.device.type, enabled=False):  # bf16 cannot tell near codes apart
        parts = z.flatten(0, -2).split(max(BLOCK // len(codebook), 1))
        found = torch.cat([(lengths - 2 * part @ codebook.T).argmin(-1) for part in parts])
    return found.view(z.shape[:-1])


def share_used(codes: Tensor, vocab: tuple[int, ...]) -> Tensor:
    """Share of the codes that occur in a batch, codes [...] or [..., books], mean over books."""
    books = codes.reshape(-1, len(vocab)).unbind(-1)
    return torch.tensor([book.unique().numel() / size for book, size in zip(books, vocab, strict=True)]).mean()
