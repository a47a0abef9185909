"""Checkpoints: run/step_00001000/ holds model.safetensors (EMA), config.json and state.pt (what resuming needs more;
converted published weights have none).

A step's folder is written under a temporary name and renamed, and renamed before it is deleted: it is whole or absent.
config.json alone says how to rebuild the model; state.pt is read with weights_only=True.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pointillist.configs.files import file_hash, read_json, write_json

FORMAT = 1


def save(run: Path, step: int, model: dict[str, Tensor], config: dict, state: dict[str, Any] | None) -> Path:
    """Write one checkpoint. An OSError (full disk) leaves the earlier checkpoints and no half-written one."""
    final = run / f"step_{step:08d}"
    partial = final.with_suffix(".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.items()}, partial / "model.safetensors")
        if state is not None:
            torch.save(state, partial / "state.pt")
        identity = {"format": FORMAT, "step": step, "sha256": file_hash(partial / "model.safetensors")}
        write_json(partial / "config.json", {**config, **identity})
        for path in (partial / "model.safetensors", partial / "state.pt"):
            if path.exists():
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
        os.replace(partial, final)
    except (OSError, RuntimeError, SafetensorError) as e:  # torch and safetensors wrap a full disk in their own types
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"could not write checkpoint {final}: {e}; make room, then run the same command") from None
    except BaseException:  # Ctrl-C
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints in a run, ascending."""
    return sorted(int(p.name[5:]) for p in run.glob("step_*") if p.name[5:].isdigit())


def prune(run: Path, keep_last: int, keep: list[int]) -> None:
    """Delete all but the last `keep_last` checkpoints and those of the steps in `keep`, and what a kill left behind."""
    for step in steps(run)[:-keep_last]:
        if step not in keep:
            folder = run / f"step_{step:08d}"
            os.replace(folder, folder.with_suffix(".tmp"))
    for partial in run.glob("step_*.tmp"):
        shutil.rmtree(partial)


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
    """config.json. Raises ValueError for a damaged file or one of another format."""
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder / 'config.json'} has format {config.get('format')}, this code reads {FORMAT}")
    return config


class Unfilled(TorchFunctionMode):
    """Inside, constructors draw no values for parameters: weights are to take their place, and a large model would
    need the time and the memory twice. Buffers are what they always are."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
        target = args[0] if args else kwargs.get("tensor")
        if isinstance(target, nn.Parameter) and (module == "torch.nn.init" or name in ("zero_", "fill_")):
            return target
        return function(*args, **kwargs)


def load_weights(model: nn.Module, folder: Path, assign: bool = False) -> None:
    """Fill a model from model.safetensors, strictly. Raises ValueError for a truncated or foreign file.

    assign: the tensors of the file, which are mapped from it, become the model's, for models that are not trained.
    """
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path} is damaged or truncated ({e}); delete {folder} to use the step before it") from None
    if file_hash(path) != read_config(folder)["sha256"]:
        raise ValueError(f"{path} is not the file its config.json was written with; delete {folder} or restore it")
    try:
        model.load_state_dict(weights, assign=assign)
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
