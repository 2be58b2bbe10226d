"""Where a picture's shape is, read from its pixels, and how much of it is where it should be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.benchmarks.prompt_accuracy import LEAST_AREA, border, foreground


def region(image: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3] -> bool [H,W]: pixels that are nearer, in RGB, to the shape's colour than to the background's.

    The background's is the median of the border (the outer 1/16); the shape's is the median of what is clearly unlike
    it (see `foreground`). So the region ends halfway between both, where a blurred edge has its middle. It is empty
    where there is no shape. A shape of two colours loses the one that is more like the background; what is drawn beside
    the shape in a third colour counts.
    """
    core = foreground(image)
    if core.mean() < LEAST_AREA:
        return np.zeros(core.shape, bool)
    pixels = image.astype(np.float32)
    ground = np.median(pixels[border(*core.shape)], axis=0)
    shape = np.median(pixels[core], axis=0)
    return np.linalg.norm(pixels - shape, axis=-1) < np.linalg.norm(pixels - ground, axis=-1)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two regions, bool [H,W]; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def overlaps(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """float [N]: of each picture's region with the mask, bool [H,W], that it should be."""
    return np.array([overlap(region(image), mask) for image, mask in zip(images, masks)])


def mean_error(images: np.ndarray, others: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference of grey levels: uint8 [N,H,W,3] twice; where bool [N,H,W] -> in 0..255."""
    return float(np.abs(images.astype(np.float32) - others.astype(np.float32))[where].mean())
