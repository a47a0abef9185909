"""Heads: what turns a place's hidden state [..., D] into the law of its code, and codes into what the network reads.

Softmax   one book, or K books predicted independently of one another (ImageFolder, FQGAN, ELM's sub-codes)
Chained   K books one after another by a small network over those before (UniTok, Open-MAGVIT2)
FlowHead  continuous codes: a small network carries noise to the code (MAR's diffusion loss, as flow matching)

A head is called with the codes it is to predict: teacher forcing. `loss` is in nats a code, all its books together
(FlowHead: mean squared error of the velocity).
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models import cross_entropy
from pointillist.models.dist import Categorical, Chain, Dist, Flow, at_least_fp32
from pointillist.models.linear import Linear


class CodeEmbedding(nn.Embedding):
    """codes [...] of one book or [..., K] of several -> the sum of their books' vectors [..., D]."""

    def __init__(self, vocab: tuple[int, ...], dim: int) -> None:
        super().__init__(sum(vocab), dim)
        self.books = len(vocab)
        self.register_buffer("first", torch.tensor([0, *accumulate(vocab)][:-1]), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        if self.books == 1:
            return super().forward(codes)
        return super().forward(codes + self.first[: codes.shape[-1]]).sum(-2)


class Softmax(Linear):
    """Logits [..., V] of one book, [..., K, V] of several; smaller books are padded with -inf."""

    def __init__(self, vocab: tuple[int, ...], dim: int, bias: bool = False) -> None:
        super().__init__(dim, sum(vocab), bias=bias)
        self.vocab = vocab

    def forward(self, hidden: Tensor, codes: Tensor | None = None) -> Tensor:
        logits = super().forward(hidden)
        if len(self.vocab) == 1:
            return logits
        widest = max(self.vocab)
        books = (F.pad(x, (0, widest - x.shape[-1]), value=float("-inf")) for x in logits.split(self.vocab, dim=-1))
        return torch.stack(list(books), dim=-2)

    def loss(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """[B, N] nats."""
        assert self.packed is None, "a packed head decodes and does not train"
        return cross_entropy.nats(hidden, self.weight, self.bias, codes, self.vocab)

    def dist(self, hidden: Tensor) -> Dist:
        return Categorical(at_least_fp32(self(hidden)))


class Chained(Softmax):
    """Book k's logits from the hidden state and the books before it: W_k (h + f(h + e(c_1) + .. + e(c_k-1)))."""

    def __init__(self, vocab: tuple[int, ...], dim: int, bias: bool = False) -> None:
        super().__init__(vocab, dim, bias)
        self.embedding = CodeEmbedding(vocab[:-1], dim)
        self.position = nn.Embedding(len(vocab), dim)
        self.mix = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        widest = max(self.vocab)
        books = (self.next_book(hidden, codes[..., :k]) for k in range(len(self.vocab)))
        return torch.stack([F.pad(x, (0, widest - x.shape[-1]), value=float("-inf")) for x in books], dim=-2)

    def pack(self, dtype: torch.dtype) -> None:
        """Not this one: each book reads rows of its own."""

    def loss(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """[B, N] nats."""
        nats = []
        for k, size in enumerate(self.vocab):
            read, weight, bias = self._next(hidden, codes[..., :k])
            nats.append(cross_entropy.nats(read, weight, bias, codes[..., k], (size,)))
        return torch.stack(nats).sum(0)

    def next_book(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits [..., V_k] of book k = codes.shape[-1], given the books before it, codes [..., k]."""
        return at_least_fp32(F.linear(*self._next(hidden, codes)))

    def _next(self, hidden: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What book k's logits are made of: W_k's argument [..., D], W_k and its bias."""
        k = codes.shape[-1]
        context = hidden + self.position.weight[k]
        if k:
            before = self.embedding.first[:k] + codes
            context = context + F.embedding(before, self.embedding.weight).sum(-2)
        start, end = list(pairwise([0, *accumulate(self.vocab)]))[k]
        bias = None if self.bias is None else self.bias[start:end]
        return hidden + self.mix(context), self.weight[start:end], bias

    def dist(self, hidden: Tensor) -> Dist:
        return Chain(hidden, self.next_book, len(self.vocab))


class FlowHead(nn.Module):
    """velocity(x_t, t | hidden) of a code's C channels: an MLP whose norms are modulated by hidden state and time.

    MAR's per-token head (Li et al., arXiv 2406.11838) with flow matching in place of diffusion; t ~ sigmoid(N(0, 1)).
    """

    draws = 4  # noisy copies of each code in training, as MAR's diffusion_batch_mul: the network runs once for all

    def __init__(self, channels: int, dim: int, steps: int, depth: int = 3) -> None:
        super().__init__()
        self.channels, self.steps = channels, steps
        self.read, self.time = nn.Linear(channels, dim), TimeEmbedding(dim)
        self.blocks = nn.ModuleList(ModulatedMLP(dim) for _ in range(depth))
        self.norm, self.write = nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, channels)

    def forward(self, hidden: Tensor, codes: Tensor | None = None) -> Tensor:
        """The hidden state itself: the law it stands for is drawn from, not tabulated."""
        return hidden

    def velocity(self, x: Tensor, t: Tensor, hidden: Tensor) -> Tensor:
        """x [..., C] at times t [...] or [] -> [..., C]."""
        y, cond = self.read(x.to(hidden.dtype)), hidden + self.time(t)
        for block in self.blocks:
            y = block(y, cond)
        return self.write(self.norm(y))

    def loss(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """[B, N] mean squared error over channels and draws."""
        hidden, codes = hidden.expand(self.draws, *hidden.shape), codes.expand(self.draws, *codes.shape)
        t, eps = torch.randn(codes.shape[:-1], device=codes.device).sigmoid(), torch.randn_like(codes)
        x = torch.lerp(codes, eps, t[..., None].to(codes.dtype))
        return (at_least_fp32(self.velocity(x, t, hidden)) - (eps - codes)).square().mean((0, -1))

    def dist(self, hidden: Tensor) -> Dist:
        def velocity(x: Tensor, t: float) -> Tensor:
            return self.velocity(x, torch.tensor(t, device=x.device), hidden).to(x.dtype)

        return Flow(velocity, self.channels, self.steps, inner=True)


class TimeEmbedding(nn.Module):
    """t [...] in [0, 1] -> [..., D]: sinusoids of 1000 t (DDPM), in fp32 as bf16 is too coarse, then an MLP."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        exponent = torch.arange(self.width // 2, device=t.device, dtype=torch.float32) / (self.width // 2)
        angle = 1000 * t[..., None].float() * 10_000.0**-exponent
        return self.layers(torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.layers[0].weight.dtype))


class ModulatedMLP(nn.Module):
    """A residual MLP with AdaLN-zero: shift, scale and gate come from cond."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.layers = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        shift, scale, gate = self.modulate(cond).chunk(3, dim=-1)
        return x + gate * self.layers(self.norm(x) * (1 + scale) + shift)


def head_of(spec: CodeSpec, dim: int, chained: bool, flow_steps: int, bias: bool = False) -> nn.Module:
    """The head that fits the codes. Raises ValueError for a chain of fewer than two books, or a bias of no logits."""
    if chained and len(spec.vocab) < 2:
        raise ValueError(f"model.books=chain needs several books a code, this tokenizer has vocab {spec.vocab}")
    if bias and not spec.vocab:
        raise ValueError("model.head_bias is of logits, which continuous codes have none of; leave it false")
    if not spec.vocab:
        return FlowHead(spec.channels, dim, flow_steps)
    return (Chained if chained else Softmax)(spec.vocab, dim, bias)
