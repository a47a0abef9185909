"""Weights files: where they are looked for, and how they are read without running what they hold."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 3  # keys named in a message


def find_weights(given: str, env: str, names: tuple[str, ...], what: str, url: str) -> Path:
    """The weights file: `given`, else the path in the environment variable, else the first of `names` in torch's cache.

    given  the option's value, "" where it was not used
    env    POINTILLIST_INCEPTION_WEIGHTS; the option has the same name without the prefix, in lower case
    names  file names under which the file is published, looked for in $TORCH_HOME/hub/checkpoints
    what   "Inception", for the message
    url    where it can be had, or a command that gets it
    Raises FileNotFoundError, in one line with the address and the places.
    """
    option = env.removeprefix("POINTILLIST_").lower()
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for source, path in ((f"{option}=", given), (f"{env}=", os.environ.get(env, ""))):
        if path and not Path(path).expanduser().is_file():
            raise FileNotFoundError(f"{source}{path}: no such file; the {what} weights are at {url}")
        if path:
            return Path(path).expanduser()
    for name in names:
        if (cache / name).is_file():
            return cache / name
    raise FileNotFoundError(
        f"no {what} weights: put {url} into {cache} as {' or '.join(names)}, or give {option}=FILE or {env}"
    )


def load_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, mapped from the file rather than read where the format allows it.

    Reads .safetensors, and .pth / .pt by torch.load(weights_only=True). Raises ValueError, in one line, for a file that
    is cut off, that holds code, or that is not a state dict.
    """
    zipped = zipfile.is_zipfile(path)
    if zipped and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        raise ValueError(f"{path} is a TorchScript archive, a program; give its weights as a plain state dict")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnpicklingError:
        raise ValueError(f"{path} holds Python objects, or is no weights file; give a plain state dict") from None
    except Exception as e:  # both formats let many exception types through for a file that is cut off
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise ValueError(f"{path} is damaged or was cut off ({reason[:80]}); get it again") from None
    if not (isinstance(state, Mapping) and state and all(isinstance(v, Tensor) for v in state.values())):
        held = f" of {_some(state)}" if state and isinstance(state, Mapping) else ""
        raise ValueError(f"{path} holds a {type(state).__name__}{held}, not tensors by name; give a plain state dict")
    return dict(state)


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy `state` into the network, cast to its dtype. ValueError, in one line, unless keys and shapes are equal."""
    own = network.state_dict()
    # How many batches a BatchNorm has seen is not read in eval mode, and older files do not have it.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    other = [f"{k} {list(v.shape)}" for k, v in state.items() if k in own and v.shape != own[k].shape]
    faults = {"lacks": missing, "has besides": unexpected, "has in another shape": other}
    if found := [f"{what} {_some(keys)}" for what, keys in faults.items() if keys]:
        raise ValueError(f"{path} is not this network's weights: it {'; it '.join(found)}")
    network.load_state_dict(state, strict=False)


def _some(keys: Iterable[object]) -> str:
    """The first few, and how many more."""
    keys = list(map(str, keys))
    more = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f" and {more} more" if more > 0 else "")
