"""Edges by Canny's method, with the thresholds of diffusers' examples."""

from __future__ import annotations

import numpy as np

from ppsd.data.annotators.opencv import in_all_channels, opencv, rows


def canny(pixels: np.ndarray, seed: int, low: float = 100, high: float = 200) -> np.ndarray:
    """RGB uint8 [3,H,W] -> white edges on black, uint8 [3,H,W]. Raises ValueError without OpenCV."""
    return in_all_channels(opencv("canny").Canny(rows(pixels), low, high))
