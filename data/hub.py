"""Images of a Hugging Face dataset, from the Hub or from parquet/arrow files on disk.

Not through timm's reader: given a column that is not there it silently reads images of nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pointillist.data.images import Listing
from pointillist.data.shards import indices


def hub_splits(name: str) -> list[str]:
    """Names of the splits. Raises ImportError without `datasets`, ValueError when the data cannot be opened."""
    return _opened(lambda datasets: datasets.get_dataset_split_names(name), name)


def hub_listing(name: str, split: str, image: str, label: str, caption: str) -> Listing:
    """One split; `image`, `label`, `caption` name its columns (label, caption: "" = none).

    Raises ValueError for a column that is not there, and for labels that are missing (-1, as in hidden test sets).
    """
    rows = _opened(lambda datasets: datasets.load_dataset(name, split=split), name)
    for option, column in {"image_column": image, "label_column": label, "caption_column": caption}.items():
        if column not in rows.column_names and (column or option == "image_column"):
            raise ValueError(f"data.{option}={column}: {name} has the columns {', '.join(rows.column_names)}")
    classes, labels = _labels(rows, label, f"{name} {split}")
    captions = tuple(map(str, rows[caption])) if caption else ()
    rows = rows.select_columns([image])
    pictures = _opened(lambda datasets: rows.cast_column(image, datasets.Image(decode=False)), name)
    return Listing(
        # The files inside often have no names, or one name many times: the row is the name.
        ids=[f"{split}/{row}" for row in range(len(rows))],
        sizes=_sizes(pictures, image),
        labels=labels,
        classes=classes,
        captions=captions,
        read_bytes=lambda index: _bytes(pictures[index][image]),
    )


def _opened(do: Callable[[ModuleType], Any], name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError("data.root=hfds/... needs the package `datasets`: pip install datasets") from None
    try:
        return do(datasets)
    except (OSError, ValueError, RuntimeError, TypeError) as e:  # absent, unreachable, no data set, no image column
        raise ValueError(f"cannot open Hugging Face data {name}: {' '.join(str(e).split())}") from None


def _labels(rows: Any, column: str, where: str) -> tuple[tuple[str, ...], np.ndarray]:
    if not column:
        return ("image",), np.zeros(len(rows), np.int64)
    values = list(rows[column])
    if isinstance(values[0], str):
        classes = tuple(sorted(set(values)))
        return classes, indices(values, classes)
    labels = np.array([-1 if v is None else v for v in values])
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or labels.min() < 0:
        raise ValueError(f"{where}: column {column} must hold one name or one number >= 0 a row; data.label_column= "
                         "(empty) reads the images as one class")  # fmt: skip
    names = getattr(rows.features[column], "names", None) or map(str, range(int(labels.max()) + 1))
    return tuple(names), labels.astype(np.int64)


def _sizes(pictures: Any, column: str) -> list[int]:
    sizes = []
    for batch in pictures.with_format("arrow").iter(batch_size=1000):
        cells = batch[column].combine_chunks()
        lengths = cells.field("bytes").is_null(), cells.field("bytes"), cells.field("path")
        for missing, data, path in zip(*lengths, strict=True):
            sizes.append(os.path.getsize(path.as_py()) if missing.as_py() else len(data.as_buffer()))
    return sizes


def _bytes(cell: dict) -> bytes:
    return cell["bytes"] or Path(cell["path"]).read_bytes()
