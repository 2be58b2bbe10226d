"""The picture out of focus, by how much the sample's seed says: for ControlNets that sharpen and enlarge."""

from __future__ import annotations

import math

import numpy as np

from ppsd.data.annotators.opencv import opencv, planes, rows
from ppsd.data.seeds import Draw, derive_seed, uniform

_SIDE = 512  # sigmas are pixels of a picture whose shorter side has so many


def blur(pixels: np.ndarray, seed: int, low: float = 2, high: float = 8) -> np.ndarray:
    """RGB uint8 [3,H,W] -> the same size, under a Gaussian with the sigma of `sigma_of`."""
    cv2 = opencv("blur")
    sigma = sigma_of(min(pixels.shape[1:]), seed, low, high)
    return planes(cv2.GaussianBlur(rows(pixels), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def sigma_of(side: int, seed: int, low: float = 2, high: float = 8) -> float:
    """In pixels, between low and high of a picture with a shorter side of 512, and in proportion for other sides.

    Its logarithm is uniform: a blur twice as wide is a step further, whether it is narrow or wide.
    """
    share = uniform(derive_seed(seed, Draw.ANNOTATION))
    return math.exp(math.log(low) + share * math.log(high / low)) * side / _SIDE
