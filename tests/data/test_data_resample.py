"""Interpolations: which are Pillow's to the bit, how near the others come, and what they do without their library."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from PIL import Image

from ppsd.data import resample
from ppsd.data.resample import INTERPOLATIONS, Box, channels_first, check_interpolation, samples_a_side
from ppsd.data.transforms import crop_box, resized_size
from tests.images import decode_pixels, noise_image, photographs

SIDE = 128


def psnr(pixels: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal to noise ratio in dB."""
    error = float(((pixels.astype(float) - expected) ** 2).mean())
    return 10 * np.log10(255**2 / max(error, 1e-9))


def whole_size(box: Box) -> tuple[int, int]:
    """Width and height of the box rounded to whole pixels."""
    left, top, right, bottom = (round(edge) for edge in box)
    return right - left, bottom - top


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
    with_it = [INTERPOLATIONS["area"](pixels, box, (SIDE, SIDE)) for pixels, box in cases(60)]
    monkeypatch.setattr(resample, "cv2", None)
    counts = set()
    for (pixels, box), expected in zip(cases(60), with_it):
        difference = np.abs(INTERPOLATIONS["area"](pixels, box, (SIDE, SIDE)).astype(np.int16) - expected)
        count = samples_a_side(*whole_size(box), (SIDE, SIDE))
        assert difference.max() <= 1
        assert (difference > 0).mean() < (0.15 if count else 0.01)  # OpenCV rounds the samples
        counts.add(count)
    assert counts == {0, 1, 2}


def test_area_by_samples_is_within_40_db_of_the_mean() -> None:
    """And no farther from Lanczos than the mean is. The mean is OpenCV's."""
    values: dict[int, list[float]] = {0: [], 1: [], 2: []}
    nearer = []
    for pixels, box in cases(200):
        if min(whole_size(box)) < SIDE:
            continue
        left, top, right, bottom = (round(edge) for edge in box)
        mean = cv2.resize(pixels[top:bottom, left:right], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        crop, lanczos = (INTERPOLATIONS[name](pixels, box, (SIDE, SIDE)) for name in ("area", "lanczos"))
        count = samples_a_side(*whole_size(box), (SIDE, SIDE))
        values[count].append(psnr(crop, mean))
        nearer.append(psnr(crop, lanczos) - psnr(mean, lanczos))
    assert min(map(len, values.values())) > 10
    assert min(values[0]) > 90
    assert min(values[1] + values[2]) > 40
    assert np.median(values[1] + values[2]) > 50
    assert abs(np.median(nearer)) < 0.1
    assert min(nearer) > -1


def test_two_samples_a_side_of_two_pixels_are_their_mean() -> None:
    pixels = np.asarray(noise_image(2 * SIDE, 2 * SIDE))
    mean = pixels.reshape(SIDE, 2, SIDE, 2, 3).astype(float).mean(axis=(1, 3))
    crop = INTERPOLATIONS["area"](pixels, (0, 0, 2 * SIDE, 2 * SIDE), (SIDE, SIDE))
    assert samples_a_side(2 * SIDE, 2 * SIDE, (SIDE, SIDE)) == 2
    assert np.abs(crop - mean).max() <= 0.5


@pytest.mark.parametrize(
    ("width", "height", "count"), [(128, 147, 1), (148, 130, 0), (180, 320, 2), (179, 192, 0), (321, 300, 0)]
)
def test_samples_where_they_are_near_enough(width: int, height: int, count: int) -> None:
    assert samples_a_side(width, height, (SIDE, SIDE)) == count


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    """5 x 3 pixels to 2 x 1: each covers 2.5 x 3 of them."""
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[0, 0], pixels[1, 2], pixels[2, 4] = 150, 90, 60
    expected = np.array([[150 + 90 / 2, 90 / 2 + 60]]) / 7.5
    crop = INTERPOLATIONS["area"](pixels, (0.2, 0.0, 4.9, 3.0), (2, 1))
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
    assert cv2.getNumThreads() == 1
