"""The colours of a picture and where they are, without its shapes: the palette of T2I-Adapter's colour adapter.

https://github.com/TencentARC/T2I-Adapter has 8 x 8 blocks for 512 x 512 pixels; here a block has the mean of its
colours, where that code takes samples of them.
"""

from __future__ import annotations

import numpy as np


def color(pixels: np.ndarray, seed: int, blocks: float = 8) -> np.ndarray:
    """RGB uint8 [3,H,W] -> the same size in blocks of one colour, `blocks` of them along the shorter side."""
    height, width = pixels.shape[1:]
    side = min(height, width) / blocks
    tops, lefts = _edges(height, side), _edges(width, side)
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float64), tops[:-1], axis=1), lefts[:-1], axis=2)
    heights, widths = np.diff(tops), np.diff(lefts)
    means = np.rint(sums / np.outer(heights, widths)).astype(np.uint8)
    return means.repeat(heights, axis=1).repeat(widths, axis=2)


def _edges(length: int, side: float) -> np.ndarray:
    """Where blocks of about `side` pixels begin, and `length`: at least one block, none of them empty."""
    count = min(length, max(1, round(length / side)))
    return np.rint(np.linspace(0, length, count + 1)).astype(np.int64)
