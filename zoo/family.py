"""Family and Member: what the zoo knows of published checkpoints before it has seen one.

A family is one file of this folder. It defines

    TITLE      its name in print, "LlamaGen"
    LICENCE    of the weights, as far as it is stated
    SOURCE     repository and paper
    WRAPPERS   keys under which a file may hold the weights, as dotted paths; the weights alone always count
    DROPPED    regular expressions for whole names of what is recomputed, not learned: buffers
    MEMBERS    its checkpoints, a tuple

The published rows of its generators, recipe and scores, are configs/imagenet/*.yaml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from pointillist import CodeSpec

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """One published checkpoint.

    name        how it is asked for, "llamagen-l-384"
    kind        generator | tokenizer
    address     Hugging Face repository that holds it
    file        its name there
    image_size  pixels a side of what it draws or encodes
    spec        of the codes
    options     tokenizer: the options of tokenizers/<options["name"]>.py; generator: {"model": {...}, "unit": {...}}
    parameters  of the published network, without buffers
    convert     (published weights, weights of its tokenizer here) -> weights here; KeyError for a missing key
    tokenizer   of a generator: the member that made its codes
    lifts       whether `convert` reads the tokenizer's weights
    aliases     other names the file goes by
    """

    name: str
    kind: Literal["generator", "tokenizer"]
    address: str
    file: str
    image_size: int
    spec: CodeSpec
    options: dict[str, Any]
    parameters: int
    convert: Callable[[Weights, Weights], Weights]
    tokenizer: str = ""
    lifts: bool = False
    aliases: tuple[str, ...] = field(default=())
