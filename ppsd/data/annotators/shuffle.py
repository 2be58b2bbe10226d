"""The contents of a picture at other places: the shuffle of ControlNet 1.1 (control_v11e_sd15_shuffle).

Each pixel is taken from where two smooth random fields say, each of which takes every value from 0 to 1. Published
code: https://github.com/lllyasviel/ControlNet-v1-1-nightly, annotator/shuffle, whose fields have a number every 256
pixels of a picture of 512.
"""

from __future__ import annotations

import numpy as np

from ppsd.data.annotators.opencv import opencv, planes, rows
from ppsd.data.seeds import Draw, derive_seed, uniform


def shuffle(pixels: np.ndarray, seed: int, cells: float = 2) -> np.ndarray:
    """RGB uint8 [3,H,W] -> the same size. cells: random numbers of a field along the shorter side."""
    cv2 = opencv("shuffle")
    height, width = pixels.shape[1:]
    field = displacement(width, height, seed, cells)
    places = (field * (width - 1, height - 1)).astype(np.float32)
    return planes(cv2.remap(rows(pixels), places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def displacement(width: int, height: int, seed: int, cells: float = 2) -> np.ndarray:
    """float64 [H,W,2]: x and y, as shares of the picture, of where each pixel is taken from; a function of all four."""
    own = derive_seed(seed, Draw.ANNOTATION)
    return np.stack([_field(width, height, derive_seed(own, axis), cells) for axis in range(2)], axis=-1)


def _field(width: int, height: int, seed: int, cells: float) -> np.ndarray:
    """Smooth random numbers [H,W] of which the least is 0 and the largest 1."""
    cell = max(1, round(min(width, height) / cells))
    grid = (height // cell + 2, width // cell + 2)
    numbers = np.array([uniform(seed, number) for number in range(grid[0] * grid[1])]).reshape(grid)
    cv2 = opencv("shuffle")
    smooth = cv2.resize(numbers, (width + 2 * cell, height + 2 * cell), interpolation=cv2.INTER_CUBIC)
    field = smooth[cell : cell + height, cell : cell + width]
    spread = field.max() - field.min()
    return (field - field.min()) / spread if spread > 0 else np.zeros_like(field)
