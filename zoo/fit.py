"""Does a file hold the checkpoint that was asked for? Names and shapes are compared with the network's before anything
is written; if they differ, the file is compared with every other member's, on the meta device."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pointillist.zoo.describe import Shapes, shapes_of
from pointillist.zoo.family import Member, Weights
from pointillist.zoo.members import families, member

SHOWN = 3  # keys named in a message


def converted(m: Member, published: Weights, tokenizer: Weights, file: Path) -> Weights:
    """Weights here, which are those of a member by name and shape.

    tokenizer: weights here of its tokenizer, where the conversion reads them. Raises ValueError, in one line that says
    what is wrong with the file and which member it looks like.
    """
    try:
        ours = m.convert(dict(published), tokenizer)
        faults = _faults(ours, shapes_of(m), published)
    except (KeyError, IndexError) as e:
        ours, faults = {}, [f"first missing keys {e.args[0]}"]
    except (ValueError, RuntimeError) as e:  # of tensors that cannot be joined or reordered
        ours, faults = {}, [" ".join(str(e).split())[:120]]
    if faults:
        raise ValueError(f"{file} does not fit {m.name}: {', '.join(faults)}; {_guess(published)}")
    return ours


def _faults(ours: Weights, expected: Shapes, published: Weights) -> list[str]:
    """What differs; by the published name of a tensor where it has only been renamed."""
    theirs = {id(value): key for key, value in published.items()}

    def name(key: str) -> str:
        return theirs.get(id(ours[key]), key) if key in ours else key

    missing = [key for key in expected if key not in ours]
    unexpected = [name(key) for key in ours if key not in expected]
    other = [key for key in ours if key in expected and tuple(ours[key].shape) != expected[key]]
    shapes = [f"shape of {name(key)} is {list(ours[key].shape)}, expected {list(expected[key])}" for key in other[:1]]
    lists = {"first missing keys": missing, "first unexpected keys": unexpected}
    return [f"{what} {_some(keys)}" for what, keys in lists.items() if keys] + shapes


def _some(keys: list[str]) -> str:
    more = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f" and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------------------------------------ identification


def _guess(published: Weights) -> str:
    found = [f"{title} ({', '.join(names)})" for title, names in looks_like(published).items()]
    if found:
        return f"it looks like {' or '.join(found)}"
    return f"it looks like nothing in the zoo: {len(published)} tensors such as {_some(list(published))}"


def looks_like(published: Weights) -> dict[str, list[str]]:
    """Title of a family, or of its tokenizers -> members with just these names and shapes. Costs no memory."""
    meta = {key: torch.empty(value.shape, dtype=value.dtype, device="meta") for key, value in published.items()}
    found: dict[str, list[str]] = {}
    for family in families():
        theirs = {k: v for k, v in meta.items() if not any(re.fullmatch(pattern, k) for pattern in family.DROPPED)}
        count = sum(value.numel() for value in theirs.values())
        for m in family.MEMBERS:
            if abs(count - m.parameters) <= 0.01 * m.parameters and _is(m, theirs):  # buffers are not counted
                title = f"the tokenizer of {family.TITLE}" if m.kind == "tokenizer" else family.TITLE
                found.setdefault(title, []).append(m.name)
    return found


def _is(m: Member, published: Weights) -> bool:
    codec = shapes_of(member(m.tokenizer)) if m.lifts else {}
    try:
        ours = m.convert(dict(published), {k: torch.empty(shape, device="meta") for k, shape in codec.items()})
    except (KeyError, IndexError, ValueError, RuntimeError):  # another family's
        return False
    return {key: tuple(value.shape) for key, value in ours.items()} == shapes_of(m)
