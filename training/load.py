"""Models back from their checkpoints: config.json says how to build them, model.safetensors fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pointillist import CodeSpec, __version__
from pointillist.configs.options import build, find
from pointillist.models.generator import Generator
from pointillist.models.generator import Options as GeneratorOptions
from pointillist.training import checkpoint


def make_tokenizer(options: Any, image_size: int) -> Any:
    """A tokenizer of tokenizers/<options.name>.py."""
    return find("tokenizers", options.name).Tokenizer(options, image_size)


def make_generator(options: GeneratorOptions, unit: Any, spec: CodeSpec, num_classes: int) -> Generator:
    """A generator whose unit is models/units/<unit.name>.py."""
    return Generator(options, spec, find("models/units", unit.name).plan(spec, unit), num_classes)


def load_tokenizer(path: str | Path, device: torch.device | str = "cpu") -> tuple[Any, dict]:
    """A frozen tokenizer and its config.json. Raises FileNotFoundError, ValueError."""
    folder, config = _open(path, "tokenizer")
    options = config["tokenizer"]
    tokenizer = make_tokenizer(build(find("tokenizers", options["name"]).Options, options), config["image_size"])
    checkpoint.load_weights(tokenizer, folder)
    return tokenizer.eval().requires_grad_(False).to(device), config


def load_generator(path: str | Path, device: torch.device | str = "cpu") -> tuple[Generator, dict]:
    """A frozen generator and its config.json, which names the tokenizer its codes belong to."""
    folder, config = _open(path, "generator")
    unit = build(find("models/units", config["unit"]["name"]).Options, config["unit"])
    options, spec = build(GeneratorOptions, config["model"]), CodeSpec.from_dict(config["spec"])
    generator = make_generator(options, unit, spec, len(config["classes"]))
    checkpoint.load_weights(generator, folder)
    return generator.eval().requires_grad_(False).to(device), config


def tokenizer_of(config: dict, folder: Path, override: str = "") -> str:
    """The path of a generator's tokenizer: `override`, or as recorded, or beside the generator's run.

    Raises FileNotFoundError when it is nowhere, ValueError when its weights are not those that made the codes.
    """
    recorded = config["tokenizer"]
    beside = folder.parent.parent / Path(recorded["path"]).name
    for path in [override] if override else [recorded["path"], str(beside)]:
        if Path(path).is_dir():
            break
    else:
        raise FileNotFoundError(f"the tokenizer {override or recorded['path']} is gone; name it with tokenizer=FOLDER")
    found = checkpoint.read_config(checkpoint.locate(path))["sha256"]
    if found != recorded["sha256"]:
        raise ValueError(
            f"{path} holds tokenizer weights {found[:8]}, this generator's codes were made with "
            f"{recorded['sha256'][:8]}; name the right one with tokenizer=FOLDER"
        )
    return path


def _open(path: str | Path, kind: str) -> tuple[Path, dict]:
    folder = checkpoint.locate(path)
    config = checkpoint.read_config(folder)
    if config.get("kind") != kind:
        raise ValueError(f"{folder} holds a {config.get('kind', 'file of another program')}, a {kind} is needed here")
    return folder, config


def provenance() -> dict[str, str]:
    return {"pointillist": __version__, "torch": torch.__version__}
