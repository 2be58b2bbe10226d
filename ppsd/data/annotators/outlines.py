"""Closed lines around regions of one colour, as in drawings for colouring; texture and soft shades leave no line."""

from __future__ import annotations

import numpy as np

from ppsd.data.annotators.opencv import in_all_channels, opencv, rows

_WINDOW, _SMALL_WINDOW, _SMALL = 5, 3, 256  # of the median; in pictures with a shorter side below 256 pixels


def outlines(pixels: np.ndarray, seed: int, step: float = 32) -> np.ndarray:
    """RGB uint8 [3,H,W] -> white lines of two pixels on black, uint8 [3,H,W].

    A pixel is on a line where, after a median that removes specks, some channel changes by at least `step` within the
    3 x 3 pixels around it.
    """
    cv2 = opencv("outlines")
    window = _SMALL_WINDOW if min(pixels.shape[1:]) < _SMALL else _WINDOW
    flat = cv2.medianBlur(rows(pixels), window)
    change = cv2.morphologyEx(flat, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=2)
    return in_all_channels(np.where(change >= step, 255, 0).astype(np.uint8))
