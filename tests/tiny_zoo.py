"""A zoo of the smallest checkpoints: a tokenizer of 16 codes in two image sizes, and generators on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pointillist import CodeSpec
from pointillist.configs import recipes
from pointillist.zoo import describe, members
from pointillist.zoo.family import Member
from pointillist.zoo.zoo import random

ROW = """
zoo: tiny
num_images: 6
batch_size: 4
classes: random
guidance: 2
device: cpu
pixels: {size: 12, resize: bicubic, quantize: truncate}
published:
  title: Tiny
  family: LlamaGen
  source: nobody
  scores: {fid: 3.0}
  certainty: {fid: paper-mem}
"""


def _codec(name: str, image_size: int) -> Member:
    options = {"name": "conv", "widths": [16, 16], "levels": [4, 4, 3], "blocks": 1}
    spec = CodeSpec(((image_size // 4, image_size // 4),), (48,), 3)
    return Member(name, "tokenizer", "nobody/tiny", "vq.pt", image_size, spec, options, 0, lambda w, _: w)


def _generator(name: str, codec: Member, unit: str = "token", **model: Any) -> Member:
    options = {"model": {"size": "nano", **model}, "unit": {"name": unit}}
    about = ("generator", "nobody/tiny", f"{name}.pt", codec.image_size, codec.spec, options, 0, lambda w, _: w)
    return Member(name, *about, tokenizer=codec.name)


VQ, LARGE = _codec("tiny-vq", 16), _codec("tiny-vq-32", 32)
MEMBERS = (
    VQ,
    LARGE,
    _generator("tiny", VQ),
    _generator("tiny-other", VQ, depth=1),
    _generator("tiny-any", VQ, unit="randar"),
    _generator("tiny-32", LARGE),
    _generator("tiny-text", VQ, caption_length=5, caption_channels=8),
)


def set_up(folder: Path, monkeypatch: Any) -> Path:
    """Work in `folder`, where weights/ holds every file and rows/ the recipes; returns weights/."""
    family = SimpleNamespace(TITLE="Tiny", LICENCE="none", SOURCE="", WRAPPERS=(), DROPPED=(), MEMBERS=MEMBERS)
    monkeypatch.setattr(members, "families", lambda: [family])
    monkeypatch.setattr(describe, "imagenet_classes", lambda: ["tench", "goldfish", "shark"])
    monkeypatch.setattr(recipes, "IMAGENET", folder / "rows")
    monkeypatch.chdir(folder)
    weights, rows = folder / "weights", folder / "rows"
    weights.mkdir()
    rows.mkdir()
    (rows / "tiny.yaml").write_text(ROW)
    (rows / "tiny-lost.yaml").write_text(ROW.replace("zoo: tiny", "not_runnable: its weights are not released"))
    for seed, m in enumerate(MEMBERS):
        if m is LARGE:
            continue  # the same file
        torch.manual_seed(seed)
        state = {k: v + 0.1 * torch.randn_like(v) for k, v in random(m.name)[0].state_dict().items()}
        torch.save(state, weights / m.file)
    return weights
