"""The house transformer: blocks, a final norm, and what AdaLN makes of a condition for them.

With default options it is LlamaGen's network (Sun et al., arXiv 2406.06525), to which the published weights map.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pointillist.models.attention import Attend, masked
from pointillist.models.blocks import AdaLN, Block, Cache, Shape, norm_of

# LlamaGen's published sizes, and small ones for two CPU cores.
SIZES = {
    "nano": {"dim": 64, "depth": 2, "num_heads": 2},
    "micro": {"dim": 256, "depth": 4, "num_heads": 4},
    "mini": {"dim": 320, "depth": 6, "num_heads": 5},
    "small": {"dim": 384, "depth": 8, "num_heads": 6},
    "B": {"dim": 768, "depth": 12, "num_heads": 12},
    "L": {"dim": 1024, "depth": 24, "num_heads": 16},
    "XL": {"dim": 1280, "depth": 36, "num_heads": 20},
    "XXL": {"dim": 1536, "depth": 48, "num_heads": 24},
    "1B": {"dim": 2048, "depth": 22, "num_heads": 32},
    "3B": {"dim": 3200, "depth": 24, "num_heads": 32},
}

GRAPHS = 128  # of one compiled network: widths of a pass times shares of the sequence, of units and windows

# Of each block [B, 1 | W, 6, D], of the final norm [B, 1 | W, 2, D]; None = as it is.
Modulations = Sequence[Tensor | None]


class Transformer(nn.Module):
    """Blocks and a final norm over embedded places; embedding and head belong to the generator."""

    checkpointing = 0  # k: of every k-th block the backward pass makes the activations anew (Chen et al., 1604.06174)

    cache_dtype: torch.dtype | None = None  # of keys and values while decoding, if not the weights'
    compiling = 0.0  # seconds that compiling passes took
    has_fixed_graphs = False  # compiled for passes of fixed sizes
    kept: dict[tuple[int, int], list[Cache]] | None = None  # their caches, by batch and length

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = norm_of(shape)
        self.modulate = AdaLN(shape.dim, 6) if shape.adaln == "shared" else None
        self.modulate_norm = AdaLN(shape.dim, 2) if shape.adaln_head else None

    def modulations(self, cond: Tensor) -> Modulations:
        """What AdaLN makes of a condition [B, 1 | W, D], the same in every pass."""
        shared = self.modulate(cond) if self.modulate else None
        blocks = [block.modulate(cond) if block.modulate else shared for block in self.blocks]
        return [*blocks, self.modulate_norm(cond) if self.modulate_norm else None]

    def forward(self, x: Tensor, rope: Tensor | None, attend: Attend, modulations: Modulations | None = None) -> Tensor:
        """x [B, L, D], rope [1 | B, L, d / 2, 2] or None for no rotation -> [B, L, D]."""
        *of_blocks, of_norm = modulations or self._plain
        k = self.checkpointing if torch.is_grad_enabled() else 0
        for i, (block, modulation) in enumerate(zip(self.blocks, of_blocks, strict=True)):
            if k and i % k == 0:
                x = checkpoint(block, x, rope, attend, modulation, use_reentrant=False)
            else:
                x = block(x, rope, attend, modulation)
        return self._normed(x, of_norm)

    def decode(
        self,
        x: Tensor,
        rope: Tensor | None,
        mask: Tensor | None,
        caches: list[Cache],
        places: Tensor,
        until: int,
        modulations: Modulations | None = None,
    ) -> Tensor:
        """A window x [B, W, D] at places [B | 1, W] -> [B, W, D]; mask [B | 1, W, K] over the first K = until places of
        the cache, None where they are all seen."""
        attend = masked(mask if mask is None else mask[:, None])
        *of_blocks, of_norm = modulations or self._plain
        for block, cache, modulation in zip(self.blocks, caches, of_blocks, strict=True):
            x = block.decode(x, rope, attend, cache, places, until, modulation)
        return self._normed(x, of_norm)

    @property
    def _plain(self) -> Modulations:
        return [None] * (self.shape.depth + 1)

    def _normed(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        assert (modulation is None) == (self.modulate_norm is None), "the final norm has AdaLN, or it has none"
        if modulation is None:
            return self.norm(x)
        scale, shift = modulation.unbind(-2)
        return self.norm(x) * (1 + scale) + shift

    def compile_passes(self, backend: Any = "inductor", fixed: bool | None = None) -> None:
        """Compile `decode`, for sampling.

        On a CPU one graph serves passes of any width and length, and the compiler packs the matrices. On a GPU graphs
        are `fixed`: there is one for each width of a pass and each share of the sequence that it sees. They are
        captured and replayed (CUDA graphs; not run on one), for which caches must keep their place in memory: a batch
        takes those of the batch before, so one at a time is drawn.
        """
        from torch._dynamo import config as graphs
        from torch._dynamo.utils import counters
        from torch._inductor import config as inductor

        graphs.recompile_limit = max(graphs.recompile_limit, GRAPHS)
        on_gpu = next(self.parameters()).device.type == "cuda"
        fixed = self.has_fixed_graphs = on_gpu if fixed is None else fixed
        self.kept, mode = {} if fixed else None, {"mode": "reduce-overhead"} if on_gpu else {}
        compiled = torch.compile(self.decode, backend=backend, fullgraph=True, dynamic=not fixed, **mode)

        def decode(*window: Any) -> Tensor:
            before, begin = counters["stats"]["unique_graphs"], time.perf_counter()
            with inductor.patch(freezing=not on_gpu, cpp_wrapper=not on_gpu):  # read when a graph is compiled
                x = compiled(*window)
            if counters["stats"]["unique_graphs"] > before:
                self.compiling += time.perf_counter() - begin
            return x

        self.decode = decode

    def new_caches(self, batch: int, length: int) -> list[Cache]:
        """Empty caches for `length` places, on the weights' device, in their dtype or that of an autocast, to which
        attention would bring them anyway. Zeros: a masked NaN is still a NaN."""
        if self.kept and (batch, length) in self.kept:
            caches = self.kept[batch, length]
            for cache in caches:
                cache.k.zero_()
                cache.v.zero_()
            return caches
        caches = self._new_caches(batch, length)
        if self.has_fixed_graphs:
            self.kept = {(batch, length): caches}
            for cache in caches:
                torch._dynamo.mark_static_address(cache.k)
                torch._dynamo.mark_static_address(cache.v)
        return caches

    def _new_caches(self, batch: int, length: int) -> list[Cache]:
        s, weight = self.shape, next(self.parameters())
        shape, kind = (batch, length, s.num_kv_heads, s.head_dim), weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.cache_dtype or weight.dtype
        return [Cache(*(weight.new_zeros(shape, dtype=dtype) for _ in "kv")) for _ in range(s.depth)]
