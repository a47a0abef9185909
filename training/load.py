"""Models back from their checkpoints: config.json says how to build them, model.safetensors fills them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    """A generator whose unit is models/units/<unit.name>.py; a unit that needs more than a plan brings its own kind."""
    module = find("models/units", unit.name)
    kind = module.Generator if hasattr(module, "Generator") else Generator
    return kind(options, spec, module.plan(spec, unit), num_classes, unit)


def load_tokenizer(path: str | Path, device: torch.device | str = "cpu") -> tuple[Any, dict]:
    """A frozen tokenizer and its config.json. Raises FileNotFoundError, ValueError."""

    def make(config: dict) -> Any:
        options = config["tokenizer"]
        return make_tokenizer(build(find("tokenizers", options["name"]).Options, options), config["image_size"])

    return _load(path, "tokenizer", make, device)


def load_generator(path: str | Path, device: torch.device | str = "cpu") -> tuple[Generator, dict]:
    """A frozen generator and its config.json, which names the tokenizer its codes belong to."""

    def make(config: dict) -> Generator:
        unit = build(find("models/units", config["unit"]["name"]).Options, config["unit"])
        spec = CodeSpec.from_dict(config["spec"])
        return make_generator(build(GeneratorOptions, config["model"]), unit, spec, len(config["classes"]))

    return _load(path, "generator", make, device)


def tokenizer_of(config: dict, folder: Path, override: str = "") -> str:
    """The path of a generator's tokenizer: `override`, or as recorded, or beside the generator's run.

    Raises FileNotFoundError when it is nowhere, ValueError when its weights are not those that made the codes.
    """
    recorded = config["tokenizer"]
    beside = folder.parent.parent / Path(recorded["path"]).name
    candidates = [override] if override else [recorded["path"], str(beside)]
    present = [path for path in candidates if Path(path).is_dir()]
    if not present:
        raise FileNotFoundError(f"the tokenizer {candidates[0]} is gone; name it with tokenizer=FOLDER")
    found = {path: checkpoint.read_config(checkpoint.locate(path))["sha256"] for path in present}
    for path, sha256 in found.items():
        if sha256 == recorded["sha256"]:
            return path
    raise ValueError(
        f"{present[0]} holds tokenizer weights {found[present[0]][:8]}, this generator's codes were made with "
        f"{recorded['sha256'][:8]}; name the right one with tokenizer=FOLDER"
    )


def _load(path: str | Path, kind: str, make: Callable[[dict], Any], device: torch.device | str) -> tuple[Any, dict]:
    folder = checkpoint.locate(path)
    config = checkpoint.read_config(folder)
    if config.get("kind") != kind:
        raise ValueError(f"{folder} holds a {config.get('kind', 'model of another program')}, a {kind} is needed here")
    try:
        model = make(config)
    except (KeyError, TypeError, AttributeError) as e:
        reason = f"{type(e).__name__} {e}"
        raise ValueError(f"{folder / 'config.json'} does not describe a {kind} ({reason}); restore it") from None
    checkpoint.load_weights(model, folder)
    return model.eval().requires_grad_(False).to(device), config


def versions() -> dict[str, str]:
    return {"pointillist": __version__, "torch": torch.__version__, "numpy": np.__version__}
