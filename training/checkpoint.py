"""Checkpoints: run/step_00001000/ holds model.safetensors (EMA), config.json and state.pt (what resuming needs).

A step's folder is written under a temporary name and renamed, so it is whole or absent. config.json alone says how to
rebuild the model; state.pt is read with weights_only=True.
"""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save(run: Path, step: int, model: dict[str, Tensor], config: dict, state: dict[str, Any]) -> Path:
    """Write one checkpoint. An OSError (full disk) leaves the earlier checkpoints and no half-written one."""
    final, partial = run / f"step_{step:08d}", run / f"step_{step:08d}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.items()}, partial / "model.safetensors")
        config = {**config, "step": step, "sha256": file_hash(partial / "model.safetensors")}
        (partial / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        torch.save(state, partial / "state.pt")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except (OSError, RuntimeError, SafetensorError) as e:  # torch and safetensors wrap a full disk in their own types
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"could not write checkpoint {final}: {e}; free some space, then run the same command") from None
    return final


def steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints in a run, ascending."""
    return sorted(int(p.name[5:]) for p in run.glob("step_*") if p.name[5:].isdigit() and (p / "config.json").is_file())


def prune(run: Path, keep_last: int, keep: list[int]) -> None:
    """Delete all but the last `keep_last` checkpoints and those of the steps in `keep`."""
    for step in steps(run)[:-keep_last]:
        if step not in keep:
            shutil.rmtree(run / f"step_{step:08d}")


def locate(path: str | Path) -> Path:
    """The checkpoint folder that `path` names: itself, or a run's newest. Raises FileNotFoundError."""
    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no run at {path}; give the folder that train.py wrote (out=...)")
    if not (found := steps(path)):
        raise FileNotFoundError(f"{path} holds no checkpoint (step_*/model.safetensors); train it with train.py first")
    return path / f"step_{found[-1]:08d}"


def read_config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ValueError(f"{folder / 'config.json'} cannot be read ({e}); choose another checkpoint") from None


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill a model from model.safetensors, strictly. Raises ValueError for a truncated or foreign file."""
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path} is damaged or truncated ({e}); delete {folder} to use the step before it") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise ValueError(f"{path} does not fit its config.json: {' '.join(str(e).split())[:300]}") from None


def read_state(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint. Raises ValueError for a truncated or unsafe file."""
    path = folder / "state.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load raises pickle, zip, EOF and runtime errors for damaged files
        reason = " ".join(str(e).split())[:160]
        raise ValueError(
            f"{path} is damaged, truncated or unsafe ({reason}); delete {folder} to resume before it"
        ) from None


def file_hash(path: str | Path) -> str:
    digest = sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
