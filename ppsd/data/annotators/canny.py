"""Edges by Canny's method, with the thresholds of diffusers' examples."""

from __future__ import annotations

import numpy as np

from ppsd.data.resample import cv2

THRESHOLDS = (100, 200)


def canny(pixels: np.ndarray, seed: int) -> np.ndarray:
    """RGB uint8 [3,H,W] -> white edges on black, uint8 [3,H,W]. Raises ValueError without OpenCV."""
    if cv2 is None:
        raise ValueError("--annotator canny needs OpenCV: pip install opencv-python-headless")
    edges = cv2.Canny(np.ascontiguousarray(pixels.transpose(1, 2, 0)), *THRESHOLDS)
    return np.broadcast_to(edges, pixels.shape).copy()
