"""Geometry of the crop, its chance, the caption dropout, and the settings that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppsd.data.captions import drop_caption
from ppsd.data.config import StreamConfig
from ppsd.data.transforms import INTERPOLATIONS, resize_and_crop, resized_size, training_crop
from ppsd.types import BadRecord
from tests.images import noise_image


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((600, 600), 512, (568, 568)),
        ((1000, 600), 512, (946, 568)),
        ((300, 900), 256, (284, 852)),
        ((71, 64), 64, (78, 71)),
    ],
)
def test_the_short_side_becomes_the_resolution_over_0_9(
    size: tuple[int, int], resolution: int, expected: tuple[int, int]
) -> None:
    assert resized_size(*size, resolution) == expected


@pytest.mark.parametrize("interpolation", sorted(INTERPOLATIONS))
@pytest.mark.parametrize("size", [(97, 64), (64, 301), (150, 150), (71, 71)])
def test_the_same_pixels_as_resizing_first_and_cropping_then(interpolation: str, size: tuple[int, int]) -> None:
    image = noise_image(*size)
    x, y = 0.3, 0.8
    width, height = resized_size(*size, 64)
    left, top = int(x * (width - 63)), int(y * (height - 63))
    resized = image.resize((width, height), INTERPOLATIONS[interpolation])
    expected = np.asarray(resized.crop((left, top, left + 64, top + 64)), np.int16)
    actual = np.asarray(resize_and_crop(image, 64, x, y, interpolation), np.int16)
    difference = np.abs(actual - expected)
    assert difference.mean() < 0.2
    assert (difference > 1).mean() < 0.02  # rounding decides which pixel a box or the nearest neighbour takes


def test_every_place_of_a_crop_is_equally_likely() -> None:
    """Each row of the image is one grey level, so the crop's first row tells where it starts."""
    rows = np.repeat(np.arange(74, dtype=np.uint8)[:, None], 71, 1)
    image = Image.fromarray(np.stack([rows] * 3, -1))
    starts = [int(training_crop(image, seed, 64, "nearest")[0, 0, 0]) for seed in range(4000)]
    counts = np.bincount(starts, minlength=11)
    assert len(counts) == 11
    assert ((counts - 4000 / 11) ** 2 / (4000 / 11)).sum() < 29.6  # chi-square, 10 degrees of freedom, p = 0.001


def test_a_crop_is_a_function_of_the_seed() -> None:
    image = noise_image(200, 150)
    crops = [training_crop(image, seed, 64) for seed in (1, 2, 1)]
    assert crops[0].shape == (3, 64, 64)
    assert crops[0].dtype == np.uint8
    assert crops[0].flags.c_contiguous
    assert (crops[0] == crops[2]).all()
    assert (crops[0] != crops[1]).any()


def test_center_crop_ignores_the_seed() -> None:
    image = noise_image(200, 150)
    first, second = (training_crop(image, seed, 64, center_crop=True) for seed in (1, 2))
    assert (first == second).all()
    middle = np.asarray(resize_and_crop(image, 64, 0.5, 0.5)).transpose(2, 0, 1)
    assert (first == middle).all()


def test_flips_are_half_of_the_samples_and_leave_the_crop_where_it_is() -> None:
    image = noise_image(80, 80)
    flipped = 0
    for seed in range(600):
        plain, maybe = training_crop(image, seed, 64), training_crop(image, seed, 64, random_flip=True)
        mirrored = bool((maybe != plain).any())
        assert (maybe == (plain[:, :, ::-1] if mirrored else plain)).all()
        flipped += mirrored
    assert 250 < flipped < 350


def test_a_small_image_is_refused_with_its_size() -> None:
    assert training_crop(noise_image(63, 500), 0, 64) == BadRecord("too small", "63 x 500, --resolution is 64")
    assert isinstance(training_crop(noise_image(64, 500), 0, 64), np.ndarray)
    assert training_crop(Image.new("RGB", (1, 1)), 0, 8).reason == "too small"


def test_a_very_long_image_costs_no_more_than_its_square() -> None:
    image = Image.new("RGB", (64, 100_000), (3, 4, 5))
    pixels = training_crop(image, 0, 64)
    assert isinstance(pixels, np.ndarray)
    assert pixels[:, 10, 10].tolist() == [3, 4, 5]


def test_caption_dropout_has_its_rate() -> None:
    dropped = sum(drop_caption("a cat", 0.1, seed) == "" for seed in range(10000))
    assert 890 < dropped < 1110
    assert {drop_caption("a cat", 0, seed) for seed in range(100)} == {"a cat"}
    assert {drop_caption("a cat", 1, seed) for seed in range(100)} == {""}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resolution": 100}, "--resolution 100 is not divisible by 8: 96 would be"),
        ({"resolution": 0}, "--resolution 0 is not divisible by 8: 8 would be"),
        ({"interpolation": "cubic"}, "--interpolation 'cubic' is not one of nearest, bilinear, bicubic"),
        ({"caption_dropout_rate": 1.5}, "--caption_dropout_rate 1.5 is not between 0 and 1"),
        ({"buffer_size": 0}, "--buffer_size 0 is less than 1"),
        ({"num_lanes": 0}, "--num_lanes 0 is less than 1"),
        ({"num_records": 0}, "--num_records 0 is less than 1"),
        ({"shuffle_every_n_samples": -1}, "--shuffle_every_n_samples -1 is negative"),
    ],
)
def test_settings_that_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        StreamConfig("set.filelist.list", **wrong)
