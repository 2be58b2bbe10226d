"""Known pictures have known regions."""

from __future__ import annotations

import numpy as np
import pytest

from ppsd.data.demo import COLORS, make_example
from ppsd.data.demo_conditions import make_conditions
from tests.benchmarks.regions import mean_error, overlap, overlaps, region
from tests.benchmarks.test_prompt_accuracy import blurred, plain


def box(left: int, top: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def drawn(mask: np.ndarray, color: str = "red", background: str = "blue") -> np.ndarray:
    return np.where(mask[..., None], plain(color), plain(background))


def test_overlaps_are_intersection_over_union() -> None:
    assert overlap(box(10, 10), box(10, 10)) == 1.0
    assert overlap(box(10, 10), box(40, 40)) == 0.0
    assert overlap(box(10, 10), box(20, 10)) == pytest.approx(200 / 600)
    assert overlap(box(10, 10), box(15, 15, 10)) == pytest.approx(100 / 400)
    assert overlap(np.zeros((64, 64), bool), np.zeros((64, 64), bool)) == 1.0


@pytest.mark.parametrize("color", ["red", "white", "cyan", "purple"])
def test_the_region_of_a_plain_shape_is_the_shape(color: str) -> None:
    assert (region(drawn(box(20, 25), color)) == box(20, 25)).all()
    assert overlaps([drawn(box(20, 25), color)], [box(30, 25)])[0] == pytest.approx(200 / 600)


def test_the_region_ends_in_the_middle_of_a_blurred_edge_whatever_the_contrast() -> None:
    mask = box(16, 16, 32)
    for color, background in (("white", "black"), ("red", "orange"), ("yellow", "cyan")):
        assert overlap(region(blurred(drawn(mask, color, background))), mask) > 0.95


def test_a_picture_without_a_shape_has_an_empty_region() -> None:
    assert not region(plain("green")).any()
    assert overlaps([plain("green")], [box(20, 20)])[0] == 0.0


def test_what_is_beside_the_shape_counts_against_it() -> None:
    mask = box(10, 10)
    assert overlap(region(drawn(mask | box(40, 40, 10))), mask) == pytest.approx(400 / 500)


def test_the_demos_pictures_have_the_regions_that_they_were_drawn_with() -> None:
    made = [make_conditions(i, seed=3) for i in range(40)]
    images = [np.asarray(one.example.image) for one in made]
    masks = [np.asarray(one.mask) > 127 for one in made]
    assert overlaps(images, masks).min() > 0.96
    other = overlaps(images, masks[1:] + masks[:1])
    assert 0.2 < other.mean() < 0.6  # what another shape at another place has by chance


def test_mean_error_is_of_the_pixels_asked_for() -> None:
    one = np.stack([np.asarray(make_example(0).image)])
    other = one.copy()
    other[0, :32] = np.clip(one[0, :32].astype(int) + 10, 0, 255)
    lower = np.zeros((1, 64, 64), bool)
    lower[0, 32:] = True
    assert mean_error(one, other, lower) == 0.0
    flat = np.full((1, 4, 4, 3), COLORS["black"], np.uint8)
    assert mean_error(flat, flat + np.uint8(6), np.ones((1, 4, 4), bool)) == 6.0
