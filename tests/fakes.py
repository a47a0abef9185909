"""Published checkpoints of tiny sizes: members of the zoo's families, and files as their authors wrote them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pointillist import CodeSpec
from pointillist.zoo import llamagen, npp, par, randar
from pointillist.zoo.family import Member, Weights

DIM, DEPTH, VOCAB, CLASSES = 64, 2, 64, 1000
SPEC = CodeSpec(grids=((4, 4),), vocab=(VOCAB,), channels=8)
VQ = {"name": "vqgan", "ch": 32, "mult": [1, 1, 1], "blocks": 2, "z": 16, "vocab": VOCAB, "channels": 8}
RECORDED = Path(__file__).parent / "golden" / "llamagen_vq" / "weights.safetensors"


def transformer(dim: int = DIM, depth: int = DEPTH, **more: Tensor) -> Weights:
    """LlamaGen's tensors, N(0, 0.1); `more` by their names with __ for a dot."""
    draws, ffn = torch.Generator().manual_seed(1), -(-int(8 * dim / 3) // 256) * 256
    shapes = {"cls_embedding.embedding_table.weight": (CLASSES + 1, dim), "tok_embeddings.weight": (VOCAB, dim)}
    for i in range(depth):
        shapes |= {
            f"layers.{i}.attention.wqkv.weight": (3 * dim, dim),
            f"layers.{i}.attention.wo.weight": (dim, dim),
            f"layers.{i}.feed_forward.w1.weight": (ffn, dim),
            f"layers.{i}.feed_forward.w3.weight": (ffn, dim),
            f"layers.{i}.feed_forward.w2.weight": (dim, ffn),
            f"layers.{i}.attention_norm.weight": (dim,),
            f"layers.{i}.ffn_norm.weight": (dim,),
        }
    shapes |= {"norm.weight": (dim,), "output.weight": (VOCAB, dim)}
    weights = {key: torch.randn(shape, generator=draws) / 10 for key, shape in shapes.items()}
    return weights | {key.replace("__", "."): value for key, value in more.items()}


def par_transformer() -> Weights:
    return transformer(spe_tok_embeddings__special_embeddings__weight=torch.randn(3, DIM))


def tokenizer() -> Weights:
    return load_file(RECORDED)


def count(weights: Weights) -> int:
    return sum(value.numel() for value in weights.values())


def member(family: object, name: str, file: str, model: dict, unit: dict, weights: Weights) -> Member:
    return replace(
        family.MEMBERS[-1],
        name=name,
        file=file,
        image_size=16,
        spec=SPEC,
        options={"model": model, "unit": unit},
        parameters=count(weights),
        tokenizer="tiny-vq",
        aliases=(),
    )


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the tiny members in the place of the published ones of LlamaGen, NPP, PAR and RandAR."""
    codec = replace(llamagen.MEMBERS[0], name="tiny-vq", file="vq.pt", image_size=16, spec=SPEC, options=VQ,
                    parameters=count(tokenizer()) - 65536)  # fmt: skip
    small, wide, token = transformer(), transformer(2 * DIM), {"name": "token"}
    pair = {"name": "par", "regions": 4}
    instruct = transformer(pos_instruct_embeddings=torch.randn(1, DIM))
    members = {
        llamagen: (
            codec,
            member(llamagen, "tiny", "tiny.pt", {"size": "nano"}, token, small),
            member(llamagen, "tiny-twin", "twin.pt", {"size": "nano"}, token, small),
            member(llamagen, "tiny-wide", "wide.pt", {"size": "nano", "dim": 2 * DIM}, token, wide),
        ),
        npp: (member(npp, "tiny-npp", "tiny.pt", {"size": "nano"}, {"name": "patch", "sides": [2]}, small),),
        par: (replace(member(par, "tiny-par", "tiny-par.pt", {"size": "nano"}, pair, par_transformer()),
                      aliases=("alias.pt",)),),
        randar: (member(randar, "tiny-randar", "r.safetensors", {"size": "nano"}, {"name": "randar"}, instruct),),
    }  # fmt: skip
    for family, found in members.items():
        patch.setattr(family, "MEMBERS", found)


def training(weights: Weights, key: str = "model") -> dict:
    """What a training of LlamaGen saves."""
    told = argparse.Namespace(lr=1e-4, results_dir="runs", betas=(0.9, 0.95), extra=argparse.Namespace(epochs=300))
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}
    return {key: weights, "optimizer": {"state": state, "param_groups": [{"lr": 1e-4}]}, "steps": 3, "args": told}


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """A folder with files of the tiny members."""
    install(monkeypatch)
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(training(transformer()), folder / "tiny.pt")
    torch.save({"model": tokenizer()}, folder / "vq.pt")
    return folder
