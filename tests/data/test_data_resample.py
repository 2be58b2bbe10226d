"""Interpolations: which are Pillow's to the bit, how near the others come, and what they do without their library."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from ppsd.data import resample
from ppsd.data.decode import decode_pixels
from ppsd.data.resample import INTERPOLATIONS, Box, channels_first, check_interpolation
from ppsd.data.transforms import crop_box, resized_size
from tests.images import noise_image, photographs

SIDE = 128


def psnr(pixels: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal to noise ratio in dB."""
    error = float(((pixels.astype(float) - expected) ** 2).mean())
    return 10 * np.log10(255**2 / max(error, 1e-9))


def cases(count: int, largest: int = 3) -> list[tuple[np.ndarray, Box]]:
    """Parts of photographs of SIDE to `largest` times SIDE pixels a side, and the box of a random crop of each."""
    rng = random.Random(0)
    photos = [decode_pixels(data) for data in photographs().values()]
    made = []
    for _ in range(count):
        photo = rng.choice(photos)
        height, width = (rng.randint(SIDE, min(largest * SIDE, side)) for side in photo.shape[:2])
        top, left = rng.randint(0, photo.shape[0] - height), rng.randint(0, photo.shape[1] - width)
        part = np.ascontiguousarray(photo[top : top + height, left : left + width])
        resized = resized_size(width, height, SIDE)
        made.append((part, crop_box(width, height, resized, (SIDE, SIDE), rng.random(), rng.random())))
    return made


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_pillow_s_are_bit_equal(name: str) -> None:
    filters = Image.Resampling[name.upper()]
    for pixels, box in cases(20):
        expected = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), filters, box))
        assert np.array_equal(INTERPOLATIONS[name](pixels, box, (SIDE, SIDE)), expected)
    tall = np.asarray(noise_image(64, 900))
    expected = np.asarray(Image.fromarray(tall).resize((64, 64), filters, (3.1, 100.2, 60.4, 157.5)))
    assert np.array_equal(INTERPOLATIONS[name](tall, (3.1, 100.2, 60.4, 157.5), (64, 64)), expected)


def test_simd_lanczos_is_within_50_db_of_pillow_s() -> None:
    pytest.importorskip("cykooz_resizer")
    values = []
    for pixels, box in cases(60):
        fast = INTERPOLATIONS["lanczos_simd"](pixels, box, (SIDE, SIDE))
        values.append(psnr(fast, INTERPOLATIONS["lanczos"](pixels, box, (SIDE, SIDE))))
        assert np.array_equal(fast, INTERPOLATIONS["lanczos_simd"](pixels, box, (SIDE, SIDE)))
    assert min(values) > 50
    assert np.median(values) > 54


def test_simd_lanczos_does_not_depend_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    simd = pytest.importorskip("cykooz_resizer")
    expected = [INTERPOLATIONS["lanczos_simd"](pixels, box, (SIDE, SIDE)) for pixels, box in cases(10)]

    class Plain(simd.Resizer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.cpu_extensions = simd.CpuExtensions.none

    monkeypatch.setattr(simd, "Resizer", Plain)
    for (pixels, box), pixels_then in zip(cases(10), expected):
        assert np.array_equal(INTERPOLATIONS["lanczos_simd"](pixels, box, (SIDE, SIDE)), pixels_then)


def test_simd_lanczos_takes_any_box_within_the_image() -> None:
    pytest.importorskip("cykooz_resizer")
    rng = random.Random(0)
    for _ in range(500):
        width, height = rng.randint(1, 90), rng.randint(1, 90)
        left, top = rng.random() * width * 0.9, rng.random() * height * 0.9
        pixels = np.full((height, width, 3), 77, np.uint8)
        crop = INTERPOLATIONS["lanczos_simd"](pixels, (left, top, width, height), (8, 16))
        assert crop.shape == (16, 8, 3)
        assert (crop == 77).all()


def test_simd_lanczos_is_refused_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    check_interpolation("lanczos_simd")
    monkeypatch.setattr(resample, "simd", None)
    check_interpolation("lanczos")
    with pytest.raises(
        ValueError, match=r"--interpolation lanczos_simd needs cykooz.resizer \(pip install ppsd\[simd\]"
    ):
        check_interpolation("lanczos_simd")


def test_area_is_near_lanczos() -> None:
    values, rounded = [], []
    for pixels, box in cases(60):
        mean = INTERPOLATIONS["area"](pixels, box, (SIDE, SIDE))
        whole = tuple(float(round(edge)) for edge in box)
        values.append(psnr(mean, INTERPOLATIONS["lanczos"](pixels, box, (SIDE, SIDE))))
        rounded.append(psnr(mean, INTERPOLATIONS["lanczos"](pixels, whole, (SIDE, SIDE))))
    assert np.median(values) > 36
    assert np.median(rounded) > 39


def test_area_without_opencv_is_the_same_to_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = [INTERPOLATIONS["area"](pixels, box, (SIDE, SIDE)) for pixels, box in cases(30)]
    monkeypatch.setattr(resample, "cv2", None)
    for (pixels, box), expected in zip(cases(30), with_it):
        difference = np.abs(INTERPOLATIONS["area"](pixels, box, (SIDE, SIDE)).astype(np.int16) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    """5 x 3 pixels to 2 x 2: each covers 2.5 x 1.5 of them."""
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[0, 0], pixels[1, 2], pixels[2, 4] = 150, 90, 60
    expected = np.array([[150 + 90 / 4, 90 / 4], [90 / 4, 90 / 4 + 60]]) / 3.75
    crop = INTERPOLATIONS["area"](pixels, (0.2, 0.0, 4.9, 3.0), (2, 2))
    assert np.abs(crop[..., 0] - expected).max() <= 0.5


def test_area_enlarges_as_lanczos_does() -> None:
    pixels, box = np.asarray(noise_image(140, 140)), (3.3, 4.4, 120.5, 121.6)
    expected = INTERPOLATIONS["lanczos"](pixels, box, (SIDE, SIDE))
    assert np.array_equal(INTERPOLATIONS["area"](pixels, box, (SIDE, SIDE)), expected)


@pytest.mark.parametrize("with_opencv", [True, False])
def test_channels_come_first(with_opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_opencv:
        monkeypatch.setattr(resample, "cv2", None)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    planes = channels_first(pixels)
    assert planes.flags.c_contiguous
    assert np.array_equal(planes, pixels.transpose(2, 0, 1))


def test_opencv_starts_no_threads() -> None:
    import cv2

    assert cv2.getNumThreads() == 1
