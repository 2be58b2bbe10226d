"""Geometry of the crop, its chance, the caption dropout, and the settings that are refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from ppsd.data.config import StreamConfig
from ppsd.data.seeds import Draw, uniform
from ppsd.data.transforms import covering_size, crop_box, resized_size, training_crop
from ppsd.types import BadRecord
from tests.images import noise_image

PILLOWS = {name: getattr(Image.Resampling, name.upper()) for name in ("nearest", "bilinear", "bicubic", "lanczos")}


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


@pytest.mark.parametrize("interpolation", PILLOWS)
@pytest.mark.parametrize("size", [(97, 64), (64, 301), (150, 150), (71, 71)])
def test_the_same_pixels_as_resizing_first_and_cropping_then(interpolation: str, size: tuple[int, int]) -> None:
    image = noise_image(*size)
    seed = 3
    width, height = resized_size(*size, 64)
    left = int(uniform(seed, Draw.CROP_X) * (width - 63))
    top = int(uniform(seed, Draw.CROP_Y) * (height - 63))
    resized = image.resize((width, height), PILLOWS[interpolation])
    expected = np.asarray(resized.crop((left, top, left + 64, top + 64)), np.int16)
    actual = training_crop(image, seed, 64, interpolation).transpose(1, 2, 0).astype(np.int16)
    difference = np.abs(actual - expected)
    assert difference.mean() < 0.2
    assert (difference > 1).mean() < 0.02  # rounding decides which pixel the nearest neighbour is


@pytest.mark.parametrize(
    ("size", "bucket", "expected"),
    [
        ((1000, 600), (640, 384), (640, 384)),
        ((1000, 600), (576, 448), (747, 448)),
        ((600, 1000), (448, 576), (448, 747)),
        ((1000, 1000), (576, 448), (576, 576)),
        ((30, 20), (320, 192), (320, 213)),
        ((799, 333), (704, 320), (768, 320)),
    ],
)
def test_an_image_covers_its_bucket(size: tuple[int, int], bucket: tuple[int, int], expected: tuple[int, int]) -> None:
    """Sizes of kohya's rule: the side that is longer than the bucket's is int(side * scale + 0.5)."""
    assert covering_size(*size, bucket) == expected


def test_covering_leaves_no_gap() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        size = rng.randint(1, 3000), rng.randint(1, 3000)
        bucket = 8 * rng.randint(1, 200), 8 * rng.randint(1, 200)
        width, height = covering_size(*size, bucket)
        assert width == bucket[0] or height == bucket[1]
        assert width >= bucket[0]
        assert height >= bucket[1]
        for x, y in ((0.0, 0.0), (0.5, 0.5), (1 - 2**-53, 1 - 2**-53)):
            left, top, right, bottom = crop_box(*size, (width, height), bucket, x, y)
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]


def test_a_bucket_s_crop_shows_the_whole_shorter_side() -> None:
    """A picture whose red tells the column and green the row, in 200 x 100 pixels, cropped to 64 x 96."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(200), np.arange(100)[:, None]
    crop = training_crop(pixels, 0, 64, "box", center_crop=True, bucket=(64, 96))
    assert crop.shape == (3, 96, 64)
    assert (crop[1, 0].max(), crop[1, -1].min()) == (0, 99)
    middle = crop[0].astype(float).mean()
    assert abs(middle - 99.5) < 1
    assert abs(float(crop[0, 0, -1]) - float(crop[0, 0, 0]) - 63 * 100 / 96) < 2
    places = {int(training_crop(pixels, seed, 64, "box", bucket=(64, 96))[0, 0, 0]) for seed in range(300)}
    assert min(places) == 0
    assert max(places) >= 130
    assert len(places) > 90


def test_a_small_image_is_enlarged_for_a_bucket() -> None:
    crop = training_crop(Image.new("RGB", (9, 5), (1, 2, 3)), 0, 64, bucket=(96, 64))
    assert crop.shape == (3, 64, 96)
    assert crop[:, 30, 30].tolist() == [1, 2, 3]


@pytest.mark.parametrize("bucket", [None, (96, 64)])
def test_the_crop_of_a_shrunk_image_is_that_of_the_image(bucket: tuple[int, int] | None) -> None:
    image = noise_image(301, 203)
    padded = Image.new("RGB", (302, 204))
    padded.paste(image.crop((300, 0, 301, 203)).resize((2, 204)), (300, 0))
    padded.paste(image.crop((0, 202, 301, 203)), (0, 203))
    padded.paste(image, (0, 0))
    half = padded.reduce(2)
    for seed in range(5):
        whole = training_crop(image, seed, 64, bucket=bucket).astype(np.int16)
        shrunk = training_crop(half, seed, 64, bucket=bucket, image_size=(301, 203), denominator=2)
        assert np.abs(whole - shrunk).mean() < 0.8
    small = training_crop(half, 0, 208, image_size=(301, 203), denominator=2)
    assert small == BadRecord("too small", "301 x 203, --resolution is 208")


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
    width, height = resized_size(200, 150, 64)
    middle = image.resize((width, height), PILLOWS["lanczos"]).crop(
        ((width - 63) // 2, (height - 63) // 2, (width - 63) // 2 + 64, (height - 63) // 2 + 64)
    )
    assert np.abs(first.astype(np.int16) - np.asarray(middle).transpose(2, 0, 1)).mean() < 0.2


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
