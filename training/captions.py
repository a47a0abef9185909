"""Captions that a person gives: features of a text encoder from a file, or texts and the encoder's folder.

    o = generator.options
    captions = read_captions("captions.npz", "", o.caption_length, o.caption_channels)
    generator.caption(captions.features, captions.mask)

From there on label i is caption i: labels of images lie in 0..n-1, and captions.texts stand where names of classes do.
A generator of classes has o.caption_length 0 and takes no captions; one of captions refuses to sample before it has
been given any. LlamaGen's reads 120 tokens of Flan-T5-XL, 2,048 channels.

A file is .npz or .safetensors with
    features  float [n, t, C], t <= T
    mask      [n, t], 1 at tokens; padding may hold anything
    texts     optional: n strings in an .npz, a JSON list in the metadata of a .safetensors
Any other file holds one text a line.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

KEYS = ("features", "mask")


@dataclass(frozen=True)
class Captions:
    """features [n, t, C] float32 with tokens where mask [n, t], bool, is true, and the n texts."""

    features: Tensor
    mask: Tensor
    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def read_captions(
    source: str | Path | list[str], encoder: str, length: int, channels: int, device: torch.device | str = "cpu"
) -> Captions:
    """Captions of a file, or of texts, for a generator of `length` tokens of `channels` channels.

    encoder: folder of a T5 text encoder and its tokenizer in the format of transformers, for texts. Raises ValueError
    and FileNotFoundError, one line: what is missing, of another shape, not finite or too long.
    """
    if not isinstance(source, list):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"captions={path} is no file; give an .npz or .safetensors, or one text a line")
        if path.suffix in (".npz", ".safetensors"):
            return checked(path, *_arrays(path), length, channels)
        source = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not source or not all(text.strip() for text in source):
        raise ValueError("no text to draw: give at least one caption, none of them empty")
    return encoded(source, encoder, length, channels, device)


# --------------------------------------------------------------------------------------------------------------- files


def _arrays(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    try:
        return _npz(path) if path.suffix == ".npz" else _safetensors(path)
    except (SafetensorError, zipfile.BadZipFile, EOFError, OSError, ValueError) as e:
        raise ValueError(f"{path} cannot be read ({e}); write it again") from None


def _npz(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(_numbers(key, file[key])) for key in KEYS if key in file}
        return arrays, [str(text) for text in file["texts"].ravel()] if "texts" in file else None


def _numbers(key: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{key} has the type {array.dtype}, numbers are needed")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    with safe_open(path, "pt") as file:
        arrays = {key: file.get_tensor(key) for key in KEYS if key in file.keys()}  # noqa: SIM118 (no mapping)
        texts = (file.metadata() or {}).get("texts")
    return arrays, None if texts is None else [str(text) for text in json.loads(texts)]


def checked(
    path: str | Path, arrays: dict[str, Tensor], texts: list[str] | None, length: int, channels: int
) -> Captions:
    """Captions of a file's arrays. Raises ValueError where they do not fit the generator or one another."""
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(missing)}; captions are features [n, t, {channels}], mask [n, t]")
    features, mask = (arrays[key] for key in KEYS)
    if features.ndim != 3 or not len(features) or not features.is_floating_point() or features.shape[2] != channels:
        raise ValueError(
            f"features of {path} are {features.dtype} {list(features.shape)}; this generator reads floats "
            f"[n, up to {length}, {channels}]"
        )
    if mask.shape != features.shape[:2] or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"mask of {path} is {list(mask.shape)}; 0 and 1 of the shape {list(features.shape[:2])} are needed"
        )
    mask = mask.bool()
    broken = (~features.isfinite().all(-1) & mask).any(1)
    if bool(broken.any()):
        raise ValueError(f"features of {path} are not finite in caption {int(broken.long().argmax())}; encode it again")
    if texts is not None and len(texts) != len(features):
        raise ValueError(f"{path} holds {len(features)} captions and {len(texts)} texts; write as many, or none")
    texts = [f"caption {i}" for i in range(len(features))] if texts is None else texts
    return Captions(*fitted(features.float(), mask, texts, length), texts)


def fitted(features: Tensor, mask: Tensor, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Without padding that no caption needs. Raises ValueError for captions of no token and of more than length."""
    tokens = mask.sum(1)
    for i, count in enumerate(tokens.tolist()):
        if not 0 < count <= length:
            raise ValueError(
                f"caption {i}, '{texts[i][:40]}', has {count} tokens; this generator reads 1 to {length}: change it"
            )
    used = mask.any(0).nonzero()[-1] + 1
    if int(used) > length:
        raise ValueError(f"tokens stand up to {int(used)}, this generator reads {length}; pad captions on the right")
    return features[:, :used].masked_fill(~mask[:, :used, None], 0), mask[:, :used]


# --------------------------------------------------------------------------------------------------------------- texts


@torch.inference_mode()
def encoded(texts: list[str], encoder: str, length: int, channels: int, device: torch.device | str) -> Captions:
    """Texts through a T5 encoder, as they are: the end token counts, nothing is cut off.

    Raises ValueError, FileNotFoundError for no encoder, one of another width, and texts of too many tokens.
    """
    tokenizer, network = _encoder(encoder)
    if network.config.d_model != channels:
        raise ValueError(
            f"the encoder in {encoder} has {network.config.d_model} channels, this generator reads {channels}; "
            "LlamaGen's is google/flan-t5-xl"
        )
    tokens = tokenizer(texts, padding=True, truncation=False, return_tensors="pt")
    mask = tokens["attention_mask"].bool()
    fitted(mask[..., None].float(), mask, texts, length)  # before the long part
    network, parts = network.to(device), []
    for ids, seen in zip(tokens["input_ids"].split(32), tokens["attention_mask"].split(32), strict=True):
        parts.append(network(input_ids=ids.to(device), attention_mask=seen.to(device)).last_hidden_state.float().cpu())
    return checked(encoder, {"features": torch.cat(parts), "mask": mask}, texts, length, channels)


def _encoder(folder: str) -> tuple[Any, Any]:
    if not folder:
        raise ValueError("texts need text_encoder=FOLDER, a T5 encoder with its tokenizer (LlamaGen: flan-t5-xl)")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"text_encoder={folder} is no folder; download google/flan-t5-xl into one")
    try:
        from transformers import AutoTokenizer, T5EncoderModel
    except ImportError:
        raise ValueError("encoding texts needs the package transformers: pip install transformers") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = T5EncoderModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as e:
        raise ValueError(f"{folder} holds no T5 encoder and tokenizer ({str(e).splitlines()[0]})") from None
    return tokenizer, network.eval().requires_grad_(False)
