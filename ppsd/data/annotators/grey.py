"""The picture without its colours: for ControlNets that colour."""

from __future__ import annotations

import numpy as np

WEIGHTS = np.array([299, 587, 114], np.float32) / 1000  # ITU-R 601-2, as Pillow's "L"


def luminance(pixels: np.ndarray) -> np.ndarray:
    """RGB uint8 [3,H,W] -> float32 [H,W] in 0..255."""
    return np.asarray(np.tensordot(WEIGHTS, pixels.astype(np.float32), 1), np.float32)


def grey(pixels: np.ndarray, seed: int) -> np.ndarray:
    """RGB uint8 [3,H,W] -> three equal channels, uint8 [3,H,W]."""
    return np.repeat(np.rint(luminance(pixels)).astype(np.uint8)[None], 3, axis=0)
