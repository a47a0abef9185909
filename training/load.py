"""Models back from their checkpoints: config.json says how to build them, model.safetensors fills them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointillist import CodeSpec, __version__
from pointillist.configs.options import build, choices, find
from pointillist.models import eagle
from pointillist.models.generator import SAMPLING, Generator
from pointillist.models.generator import Options as GeneratorOptions
from pointillist.models.plan import Misfit
from pointillist.training import checkpoint


def make_tokenizer(options: Any, image_size: int) -> Any:
    """A tokenizer of tokenizers/<options.name>.py."""
    return find("tokenizers", options.name).Tokenizer(options, image_size)


def make_generator(
    options: GeneratorOptions, unit: Any, spec: CodeSpec, num_classes: int, lift: Any = None
) -> Generator:
    """A generator whose unit is models/units/<unit.name>.py; a unit that needs more than a plan brings its own kind.

    lift is the tokenizer's, for units that read codes through it. Raises ValueError, naming the units that fit, where
    this one cannot predict codes of this shape.
    """
    module = find("models/units", unit.name)
    kind = kind_of(unit.name)
    try:
        plan = module.plan(spec, unit)
    except Misfit as e:
        raise ValueError(f"{e}; units that fit: {', '.join(fitting(spec))}") from None
    return kind(options, spec, plan, num_classes, unit, *([copy.deepcopy(lift)] if kind.reads_lift else []))


def kind_of(unit: str) -> type[Generator]:
    """The Generator class of a unit: its own, or the one for plans alone."""
    return getattr(find("models/units", unit), "Generator", Generator)


def check_sampler(options: Any, generator: Generator, scheduled: bool) -> None:
    """Raises ValueError, naming what does fit, where a sampler needs more than this unit's generator gives, or where
    an order or passes are asked for (`scheduled`) of a sampler that chooses by itself."""
    if getattr(generator, "drafts_only", False):
        raise ValueError("a draft head cannot be sampled alone; give its target, with draft=HEAD sampler.drafter=model")
    name, sampler = options.name, find("sampling", options.name)
    needs = {n: getattr(find("sampling", n), "fits", lambda _: True) for n in choices("sampling")}
    if not needs.get(name, lambda _: True)(generator):
        units = [u for u in fitting(generator.spec) if needs[name](kind_of(u))]
        raise ValueError(
            f"sampler={name} does not fit unit={generator.unit.name}; samplers that do: "
            f"{', '.join(n for n in needs if needs[n](generator))}; units for this sampler: {', '.join(units)}"
            + ("; this one too while it draws one code a pass: unit.passes=0" if generator.unit.name in units else "")
        )
    if scheduled and not getattr(sampler, "FOLLOWS_SCHEDULE", True):
        raise ValueError(
            f"sampler={name} chooses what to decode by itself: order= and unit.* are for sampler=ancestral"
        )
    if hasattr(sampler, "check"):
        sampler.check(generator, options)


def fitting(spec: CodeSpec, drafted: bool = False) -> list[str]:
    """Units that can predict these codes; drafted: those that an EAGLE head can draft for."""
    names = []
    for name in choices("models/units"):
        module = find("models/units", name)
        try:
            plan = module.plan(spec, module.Options())
        except Misfit:
            continue
        except ValueError:
            plan = None  # it fits with another size
        if not drafted or (plan is not None and eagle.fits(plan, spec)):
            names.append(name)
    return names


def load_tokenizer(path: str | Path, device: torch.device | str = "cpu") -> tuple[Any, dict]:
    """A frozen tokenizer and its config.json. Raises FileNotFoundError, ValueError."""
    return _load(path, "tokenizer", described_tokenizer, device)


def described_tokenizer(config: dict) -> Any:
    """The tokenizer that a config.json describes, with the weights of its constructor."""
    options = config["tokenizer"]
    return make_tokenizer(build(find("tokenizers", options["name"]).Options, options), config["image_size"])


def load_generator(
    path: str | Path, device: torch.device | str = "cpu", unit: dict | None = None, model: dict | None = None
) -> tuple[Generator, dict]:
    """A frozen generator and its config.json, which names the tokenizer its codes belong to; or a draft head, which
    brings its target with it.

    unit and model replace options that may change after training (SAMPLING in their files); ValueError for others.
    """
    folder = checkpoint.locate(path)
    if checkpoint.read_config(folder).get("kind") == "eagle":
        override("unit", unit or {}, {"name": "draft head"}, set())
        override("model", model or {}, {"name": "draft head"}, set())
        return _load(folder, "eagle", lambda config: make_eagle(config, folder, device), device)
    return _load(folder, "generator", lambda config: described_generator(config, unit or {}, model or {}), device)


def described_generator(config: dict, unit: dict, model: dict) -> Generator:
    """The generator that a config.json describes, with the weights of its constructor; unit and model as above."""
    name = config["unit"]["name"]
    module = find("models/units", name)
    units = override("unit", unit, config["unit"], getattr(module, "SAMPLING", set()))
    allowed = SAMPLING - ({"flow_steps"} if config["spec"]["vocab"] else set())
    models = override("model", model, config["model"], allowed)
    spec, lift = CodeSpec.from_dict(config["spec"]), None
    if kind_of(name).reads_lift:
        lift = find("tokenizers", config["tokenizer"]["name"]).Lift(spec)
    options = build(GeneratorOptions, models)
    return make_generator(options, build(module.Options, units), spec, len(config["classes"]), lift)


def make_eagle(config: dict, folder: Path, device: torch.device | str) -> eagle.Eagle:
    """A draft head for the target that its checkpoint names. Raises FileNotFoundError, ValueError as `recorded`."""
    return eagle.Eagle(build(eagle.Options, config["model"]), load_generator(target_of(config, folder), device)[0])


def override(what: str, wanted: dict, trained: dict, allowed: set[str]) -> dict:
    """Trained options with the wanted ones in their place."""
    for key in wanted:
        if key not in allowed:
            free = ", ".join(f"{what}.{name}" for name in sorted(allowed)) or "none"
            raise ValueError(
                f"{what}.{key} cannot change after training; of this {trained.get('name', 'model')} these can: {free}"
            )
    return trained | wanted


def tokenizer_of(config: dict, folder: Path, override: str = "") -> str:
    """The path of a generator's tokenizer: `override`, or as recorded, or beside the generator's run.

    Raises FileNotFoundError when it is nowhere, ValueError when its weights are not those that made the codes.
    """
    remedy = "name {} with tokenizer=FOLDER"
    return _recorded("tokenizer", config, folder, override, "this generator's codes were made with", remedy)


def target_of(config: dict, folder: Path) -> str:
    """The path of a draft head's target, as `tokenizer_of`."""
    return _recorded("target", config, folder, "", "this draft head was trained on", "restore {}, or train a head anew")


def _recorded(what: str, config: dict, folder: Path, override: str, needs: str, remedy: str) -> str:
    recorded = config[what]
    beside = folder.parent.parent / Path(recorded["path"]).name
    candidates = [override] if override else [recorded["path"], str(beside)]
    present = [path for path in candidates if Path(path).is_dir()]
    if not present:
        raise FileNotFoundError(f"the {what} {candidates[0]} is gone; {remedy.format('it')}")
    found = {path: checkpoint.read_config(checkpoint.locate(path))["sha256"] for path in present}
    for path, sha256 in found.items():
        if sha256 == recorded["sha256"]:
            return path
    raise ValueError(
        f"{present[0]} holds {what} weights {found[present[0]][:8]}, {needs} {recorded['sha256'][:8]}; "
        f"{remedy.format('the right one')}"
    )


def _load(path: str | Path, kind: str, make: Callable[[dict], Any], device: torch.device | str) -> tuple[Any, dict]:
    folder = checkpoint.locate(path)
    config = checkpoint.read_config(folder)
    if config.get("kind") != kind:
        raise ValueError(f"{folder} holds a {config.get('kind', 'model of another program')}, a {kind} is needed here")
    try:
        with checkpoint.Unfilled():
            model = make(config)
    except (KeyError, TypeError, AttributeError) as e:
        reason = f"{type(e).__name__} {e}"
        raise ValueError(f"{folder / 'config.json'} does not describe a {kind} ({reason}); restore it") from None
    checkpoint.load_weights(model, folder, assign=True)
    return model.eval().requires_grad_(False).to(device), config


def versions() -> dict[str, str]:
    return {"pointillist": __version__, "torch": torch.__version__, "numpy": np.__version__}
