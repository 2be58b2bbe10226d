"""Choosing and drawing the samples of the contact sheet."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from ppsd.data.conditions import COLUMNS
from ppsd.data.inspection.result import Tile
from ppsd.types import Sample

TILE_SIDE = 512


def make_room(tiles: list[Tile], limit: int, chance: float) -> bool:
    """Whether a tile of this chance is among the `limit` lowest; if so, the highest one makes room for it."""
    if len(tiles) < limit:
        return True
    worst = max(tiles, key=lambda tile: tile.chance, default=None)
    if worst is None or worst.chance <= chance:
        return False
    tiles.remove(worst)
    return True


def text_of(ids: np.ndarray, tokenizer: Any) -> str:
    """What token ids [L] say, without the ends and the padding."""
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return str(tokenizer.decode([token for token in ids.tolist() if token not in ends]))


def shown_of(sample: Sample) -> np.ndarray:
    """uint8 [3,H,W]: its picture, and below it each of its conditions."""
    conditions = [_rgb_of(sample.extras[name]) for name in COLUMNS if name in sample.extras]
    return np.concatenate([sample.pixels, *conditions], axis=1) if conditions else sample.pixels


def _rgb_of(condition: np.ndarray) -> np.ndarray:
    """uint8 [1 or 3,H,W] or float [1,H,W] in 0..1 -> uint8 [3,H,W]."""
    levels = condition if condition.dtype == np.uint8 else np.rint(condition * 255).astype(np.uint8)
    return np.broadcast_to(levels, (3, *levels.shape[1:]))


def jpeg_of(pixels: np.ndarray) -> str:
    """uint8 [3,H,W] -> a JPEG file in base64, made smaller only above TILE_SIDE."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    shrink = math.sqrt(max(1.0, image.width * image.height / TILE_SIDE**2))
    if shrink > 1:
        image = image.resize((round(image.width / shrink), round(image.height / shrink)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()
