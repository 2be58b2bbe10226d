"""Random changes of colour."""

from __future__ import annotations

import numpy as np

from ppsd.data.resample import cv2
from ppsd.data.seeds import Draw, uniform

_GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # of torchvision's rgb_to_grayscale


def jitter(pixels: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """uint8 [3,h,w] -> the same with another brightness, contrast, saturation and hue, in this order.

    Factors are uniform in [1 - strength, 1 + strength], the hue is turned by up to strength / 4 of the circle, at most
    a half: torchvision's ColorJitter(s, s, s, s / 4), the proportions of SimCLR (arXiv 2002.05709, appendix A).
    """
    return jittered(
        pixels,
        _factor(strength, seed, Draw.BRIGHTNESS),
        _factor(strength, seed, Draw.CONTRAST),
        _factor(strength, seed, Draw.SATURATION),
        min(strength / 4, 0.5) * (2 * uniform(seed, Draw.HUE) - 1),
    )


def _factor(strength: float, seed: int, draw: Draw) -> float:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * uniform(seed, draw)


def jittered(pixels: np.ndarray, brightness: float, contrast: float, saturation: float, turn: float) -> np.ndarray:
    """uint8 [3,h,w]: factors as torchvision's adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue."""
    colours: np.ndarray = np.ascontiguousarray(np.moveaxis(pixels, 0, -1), dtype=np.float32)
    colours = (colours * np.float32(brightness / 255)).clip(0, 1)
    colours = _mixed(colours, (colours @ _GREY).mean(), contrast)
    colours = _mixed(colours, (colours @ _GREY)[..., None], saturation)
    if turn:
        hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
        colours = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.ascontiguousarray(np.moveaxis((colours * 255 + 0.5).astype(np.uint8), -1, 0))


def _mixed(colours: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    """The colours at factor 1, the other at 0, and beyond."""
    return (factor * colours + (1 - factor) * other).astype(np.float32).clip(0, 1)


def check_jitter(strength: float) -> None:
    """Raise ValueError for a strength that cannot be, or without OpenCV."""
    if not 0 <= strength <= 2:
        raise ValueError(f"--color_jitter {strength} is not between 0 and 2")
    if strength and cv2 is None:
        raise ValueError("--color_jitter needs OpenCV: pip install opencv-python-headless")
