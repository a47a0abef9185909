"""Pictures a person looks at: rows of images with a name beside each row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pointillist.configs.files import write_whole


def save_grid(rows: list[tuple[str, Tensor]], path: str | Path, title: str = "", pixels: int = 64) -> None:
    """Write a PNG of rows (name, uint8 images [n, 3, S, S]); small images are enlarged to about `pixels` a side."""
    assert rows and all(images.dtype.is_signed is False for _, images in rows), "rows hold uint8 images"
    side = rows[0][1].shape[-1]
    scale = max(round(pixels / side), 1)
    cell, top = side * scale + 4, 28 if title else 4
    font = ImageFont.load_default(14)
    left = 12 + max(int(font.getlength(name)) for name, _ in rows)
    columns = max(len(images) for _, images in rows)
    canvas = Image.new("RGB", (left + columns * cell, top + len(rows) * cell), (245, 245, 245))
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 6), title, fill=(30, 30, 30), font=font)
    for r, (name, images) in enumerate(rows):
        draw.text((8, top + r * cell + cell // 2 - 8), name, fill=(30, 30, 30), font=font)
        for c, image in enumerate(images):
            tile = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            canvas.paste(tile.resize((side * scale,) * 2, Image.NEAREST), (left + c * cell, top + r * cell))
    png = io.BytesIO()
    canvas.save(png, format="PNG")
    write_whole(path, png.getvalue())
