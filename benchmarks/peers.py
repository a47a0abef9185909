"""Peers' own networks, from the user's checkouts, for benchmarks: nothing of theirs is copied."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import nn

from pointillist.training.load import described_generator, described_tokenizer
from pointillist.zoo import taming, var
from pointillist.zoo.describe import config_of
from pointillist.zoo.members import member


def checkout(path: str, name: str, file: str) -> None:
    """Make a peer's packages importable. Raises ValueError for another folder."""
    if not (Path(path) / file).is_file():
        raise ValueError(f"peer={path or 'FOLDER'} is no checkout of {name}: {file} is not there")
    sys.path.insert(0, path)


def llamagen_tokenizer(path: str) -> tuple[nn.Module, Callable[[], nn.Module]]:
    """LlamaGen's VQ-16 with random weights of seed 0, and what makes ours of the same weights."""
    checkout(path, "LlamaGen", "tokenizer/tokenizer_image/vq_model.py")
    from tokenizer.tokenizer_image.vq_model import VQ_models

    torch.manual_seed(0)
    peer = VQ_models["VQ-16"](codebook_size=16384, codebook_embed_dim=8).eval().requires_grad_(False)

    def ours() -> nn.Module:
        network = described_tokenizer(config_of(member("llamagen-vq-16-256")))
        network.load_state_dict(taming.llamagen_vq(dict(peer.state_dict()), {}))
        return network.eval().requires_grad_(False)

    return peer, ours


def var_networks(path: str, name: str) -> tuple[nn.Module, nn.Module, Callable[[], tuple[nn.Module, nn.Module]]]:
    """VAR's tokenizer and transformer of a member of the zoo with random weights of seed 0, and what makes ours of the
    same weights."""
    checkout(path, "VAR", "models/var.py")
    m = member(name)
    with _quiet_and_undone():
        from models import build_vae_var

        torch.manual_seed(0)
        sides = tuple(side for side, _ in m.spec.grids)
        depth, flash = m.options["model"]["depth"], torch.cuda.is_available()
        vae, transformer = build_vae_var(torch.device("cpu"), sides, depth=depth, flash_if_available=flash)
        transformer.init_weights(init_adaln_gamma=0.5, init_head=0.5, init_std=-1)  # gates that are not almost shut
    for key, weight in vae.named_parameters():  # which their constructor leaves as the memory was
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.02)
        else:
            nn.init.constant_(weight, float("norm" in key and key.endswith("weight")))

    def ours() -> tuple[nn.Module, nn.Module]:
        tokenizer, generator = (
            described_tokenizer(config_of(member(m.tokenizer))),
            described_generator(config_of(m), {}, {}),
        )
        codec = taming.var_vqvae(dict(vae.state_dict()), {})
        tokenizer.load_state_dict(codec)
        generator.load_state_dict(var.generator(dict(transformer.state_dict()), codec))
        return tokenizer.eval().requires_grad_(False), generator.eval().requires_grad_(False)

    return vae.eval().requires_grad_(False), transformer.eval().requires_grad_(False), ours


@contextmanager
def _quiet_and_undone() -> Iterator[None]:
    """VAR's constructor prints, and switches off how torch's layers initialise themselves, for the whole process."""
    kinds = [kind for kind in vars(nn).values() if isinstance(kind, type) and hasattr(kind, "reset_parameters")]
    before = {kind: kind.__dict__.get("reset_parameters") for kind in kinds}
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        for kind, method in before.items():
            if method is not None:
                kind.reset_parameters = method
            elif "reset_parameters" in kind.__dict__:
                del kind.reset_parameters
