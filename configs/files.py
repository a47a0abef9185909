"""Files that are whole or absent, and JSON that says which file is damaged."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_whole(path: str | Path, content: str | bytes | Iterable[bytes]) -> None:
    """The file appears under its name with all its bytes or not at all; parents are made.

    Raises OSError, one line, for a full disk or a folder that cannot be written.
    """
    path = Path(path)
    blocks = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    temporary = path.with_name(path.name + ".tmp")
    try:
        _writing(path, os.makedirs, path.parent, 0o777, True)
        with _writing(path, open, temporary, "wb", 0) as file:  # unbuffered: closing it cannot fail once more
            for block in blocks:  # an OSError of whoever makes the blocks is not ours and passes unchanged
                left = memoryview(block)
                while left:
                    left = left[_writing(path, file.write, left) :]
            _writing(path, os.fsync, file.fileno())
        _writing(path, os.replace, temporary, path)
    except BaseException:  # also Ctrl-C: no rubbish stays
        with suppress(OSError):
            temporary.unlink()
        raise


def _writing(path: Path, do: Callable, *args: Any) -> Any:
    try:
        return do(*args)
    except OSError as e:
        raise cannot_write(path, e) from None


def cannot_write(path: str | Path, e: OSError) -> OSError:
    """The error a person gets for `e`."""
    return OSError(f"cannot write {path} ({e.strerror or e}); make room or choose another folder, then run it again")


def write_json(path: str | Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | Path) -> dict:
    """Raises ValueError that names a damaged file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ValueError(f"{path} cannot be read ({e}); it is damaged or of another program") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__}, not an object")
    return value


def file_hash(path: str | Path) -> str:
    """sha256, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
