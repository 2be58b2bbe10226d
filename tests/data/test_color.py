"""The colour changes of --color_jitter, by the formulas of torchvision."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from ppsd.data.color import check_jitter, jitter, jittered
from tests.images import noise_image

PIXELS = np.moveaxis(np.asarray(noise_image(20, 16, seed=3)), -1, 0)
FACTORS = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "turn": 0.0}


def _expected(brightness: float, contrast: float, saturation: float, turn: float) -> np.ndarray:
    """ColorJitter in words: scale; blend with the mean grey; blend with each pixel's grey; turn the hue."""
    colours = (PIXELS / 255 * brightness).clip(0, 1)
    weights = np.array([0.2989, 0.587, 0.114])[:, None, None]
    colours = (contrast * colours + (1 - contrast) * (colours * weights).sum(axis=0).mean()).clip(0, 1)
    colours = (saturation * colours + (1 - saturation) * (colours * weights).sum(axis=0)).clip(0, 1)
    turned = np.empty_like(colours)
    for place in np.ndindex(colours.shape[1:]):
        hue, s, v = colorsys.rgb_to_hsv(*colours[(slice(None), *place)])
        turned[(slice(None), *place)] = colorsys.hsv_to_rgb((hue + turn) % 1, s, v)
    return turned * 255


@pytest.mark.parametrize(
    "factors",
    [{}, {"brightness": 1.4}, {"contrast": 0.3}, {"saturation": 1.7}, {"turn": 0.2}, {"turn": -0.4, "contrast": 1.2}],
)
def test_formulas(factors: dict[str, float]) -> None:
    changed = jittered(PIXELS, **{**FACTORS, **factors})
    assert (changed.dtype, changed.shape) == (np.uint8, PIXELS.shape)
    assert np.abs(changed - _expected(**{**FACTORS, **factors})).max() < 1.01
    assert (changed == PIXELS).all() == (not factors)


def test_draws_are_uniform_and_belong_to_the_seed() -> None:
    grey = np.full((3, 1, 1), 100, np.uint8)
    levels = np.array([jitter(grey, 0.2, seed)[0, 0, 0] for seed in range(2000)])
    assert (levels.min(), levels.max()) == (80, 120)
    assert abs(levels.mean() - 100) < 1
    assert abs(levels.std() - 40 / 12**0.5) < 0.6
    assert (jitter(PIXELS, 0.5, 7) == jitter(PIXELS, 0.5, 7)).all()
    assert (jitter(PIXELS, 0.5, 7) != jitter(PIXELS, 0.5, 8)).any()


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_strengths_that_cannot_be(strength: float) -> None:
    with pytest.raises(ValueError, match=r"--color_jitter .* is not between 0 and 2"):
        check_jitter(strength)
