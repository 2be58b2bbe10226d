"""Picture grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ppsd.formats.atomic import atomic_write


def image_grid(
    images: Union[np.ndarray, Sequence[np.ndarray]],
    columns: Optional[int] = None,
    captions: Optional[Sequence[str]] = None,
) -> np.ndarray:
    """N pictures uint8 [H,W,3] -> one uint8 [rows*H', columns*W', 3]; with captions each has its text below it.

    Of pictures of several sizes, the smaller ones stand in the middle of white.
    """
    n, columns = len(images), columns or math.ceil(math.sqrt(len(images)))
    h, w = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    tiles = [_padded(Image.fromarray(image), w, h) for image in images]
    if captions is not None:
        scale = max(1, math.ceil(160 / w))  # small tiles are enlarged, so that the words can be read
        texts = [_wrap(text, max(8, w * scale // 7))[:3] for text in captions]
        rows = max(len(text) for text in texts)
        tiles = [_with_caption(tile, text, rows, scale) for tile, text in zip(tiles, texts)]
    w, h = tiles[0].size
    sheet = Image.new("RGB", (columns * w, math.ceil(n / columns) * h), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * w, i // columns * h))
    return np.asarray(sheet)


def save_png(path: Path, image: np.ndarray) -> None:
    """A reader never sees half a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format="PNG")


def _padded(tile: Image.Image, width: int, height: int) -> Image.Image:
    if tile.size == (width, height):
        return tile
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(tile, ((width - tile.width) // 2, (height - tile.height) // 2))
    return sheet


def _with_caption(tile: Image.Image, lines: Sequence[str], rows: int, scale: int) -> Image.Image:
    tile = tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (tile.width + 8, tile.height + 16 * rows + 8), "white")
    sheet.paste(tile, (4, 4))
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((6, tile.height + 6 + 16 * i), line, fill="black", font=ImageFont.load_default())
    return sheet


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()[:width]
    return lines
