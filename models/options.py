"""The options of a generator's network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pointillist.models.blocks import Shape
from pointillist.models.condition import check_options
from pointillist.models.transformer import SIZES

BLOCK_OPTIONS = ("dropout", "norm", "ffn", "qk_norm", "attention_bias", "rope", "adaln", "adaln_head")


@dataclass
class Options:
    """The generator's network. A size names dim, depth and num_heads; each may be overridden."""

    size: str = "micro"  # nano | micro | mini | small | B | L | XL | XXL | 1B | 3B
    dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None  # fewer than num_heads: grouped-query attention
    norm: Literal["rms", "layer"] = "rms"  # RMSNorm with weights, or LayerNorm without
    ffn: Literal["swiglu", "gelu"] = "swiglu"  # feed-forward: gated without biases, or GELU between two maps with them
    qk_norm: str = "none"  # of queries and keys: none | rms (RMSNorm) | l2 (cosine attention with learned scales)
    attention_bias: Literal["none", "qv", "qkv"] = "none"  # of those projections, and of the one behind attention
    rope: bool = True  # rotary positions; without them only a unit's own position embeddings tell places apart
    adaln: Literal["none", "shared", "block"] = "none"  # the class modulates blocks: by one map for all, or one each
    adaln_head: bool = False  # the class modulates the norm before the head, too
    head_bias: bool = False  # of the logits
    dropout: float = 0.1  # of what attention and feed-forward add to the residual stream
    token_dropout: float = 0.1  # of the embedded sequence
    label_dropout: float = 0.1  # the class becomes the null class, a caption the null caption, which guidance needs
    caption_length: int = 0  # tokens of a caption, as a text encoder's features; 0 = a class
    caption_channels: int = 0  # width of those features: 2048 of Flan-T5-XL
    books: Literal["parallel", "chain"] = "parallel"  # several books a code: at once, or each given those before
    flow_steps: int = 25  # of the solver that draws continuous codes
    attention: Literal["sdpa", "matmul", "flex", "xformers"] = "sdpa"  # of whole sequences; see models/attention.py

    def __post_init__(self) -> None:
        qk_norm = {"true": "rms", "false": "none"}.get(str(self.qk_norm).lower(), self.qk_norm)  # as it once was said
        if qk_norm not in ("none", "rms", "l2"):
            raise ValueError(f"unknown model.qk_norm '{qk_norm}'; choose one of none, rms, l2")
        self.qk_norm = qk_norm
        self.shape()
        for name in ("dropout", "token_dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} must lie in [0, 1), got {getattr(self, name)}")
        check_options(self)
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
            **{name: getattr(self, name) for name in BLOCK_OPTIONS},
        )
