"""png=true: the finished images as one PNG each, for tools that want folders."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from pointillist.configs.files import write_whole
from pointillist.evaluation.arrays import open_npz

BATCH = 256  # images read together


def write_pngs(out: Path) -> None:
    """OUT/png/000000.png ... of OUT/images.npz; those that are there already stay. Raises ValueError, OSError.

    Each file appears whole, so after a kill only what is missing is written. Pillow compresses without the lock, in as
    many threads as there are cores.
    """
    array, _ = open_npz(out / "images.npz")
    names = [out / "png" / f"{number:06d}.png" for number in range(array.shape[0])]
    missing = np.array([number for number, path in enumerate(names) if not path.is_file()], dtype=np.int64)
    if not len(missing):
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(missing), unit="png", dynamic_ncols=True) as bar:
        for index in np.split(missing, range(BATCH, len(missing), BATCH)):
            list(pool.map(_write, [names[i] for i in index], array.rows(index)))
            bar.update(len(index))


def _write(path: Path, image: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    write_whole(path, file.getvalue())
