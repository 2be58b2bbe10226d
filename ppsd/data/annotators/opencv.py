"""What the annotators have in common that are built on OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppsd.data.resample import cv2


def opencv(name: str) -> Any:
    """The module. Raises ValueError, naming the annotator, where it cannot be imported."""
    if cv2 is None:
        raise ValueError(f"--annotator {name} needs OpenCV: pip install opencv-python-headless")
    return cv2


def rows(pixels: np.ndarray) -> np.ndarray:
    """[3,H,W] -> [H,W,3], contiguous, as OpenCV has pictures."""
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def planes(picture: np.ndarray) -> np.ndarray:
    """[H,W,3] -> [3,H,W], contiguous."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def in_all_channels(grey: np.ndarray) -> np.ndarray:
    """[H,W] -> [3,H,W]."""
    return np.repeat(grey[None], 3, axis=0)
