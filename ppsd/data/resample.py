"""Part of an image -> pixels of another size, in one step, by one of several filters."""

from __future__ import annotations

import math
from functools import partial
from typing import Callable

import numpy as np
from PIL import Image

try:
    import cv2
except ImportError:  # opencv-python does not import where libGL is missing
    cv2 = None  # type: ignore[assignment]
else:
    cv2.setNumThreads(1)  # workers are the threads: OpenCV's own would wait for their cores, and do not survive a fork

try:
    import cykooz_resizer as simd
except ImportError:  # the extra `simd` is not installed
    simd = None

Box = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[int, int]  # width, height
Resample = Callable[[np.ndarray, Box, Size], np.ndarray]  # uint8 [H,W,3], contiguous, to uint8 [h,w,3]


def pillow(pixels: np.ndarray, box: Box, size: Size, resampling: Image.Resampling) -> np.ndarray:
    """What Pillow makes of uint8 [H,W,3].

    It is given all of them: which direction it resamples first depends on the shape of the whole image.
    """
    height, width = pixels.shape[:2]
    image = Image.frombytes("RGB", (width, height), pixels.data, "raw", "RGB")
    return np.asarray(image.resize(size, resampling, box))


def lanczos_simd(pixels: np.ndarray, box: Box, size: Size) -> np.ndarray:
    """Lanczos by fast_image_resize: 53 dB or more from Pillow's on photographs, the same on all x86 processors."""
    height, width = pixels.shape[:2]
    crop = simd.CropBox(box[0], box[1], _extent(box[0], box[2], width), _extent(box[1], box[3], height))
    options = simd.ResizeOptions(simd.ResizeAlg.convolution(simd.FilterType.lanczos3), crop_box=crop)
    source = simd.ImageData(width, height, simd.PixelType.U8x3, pixels.tobytes())
    target = simd.ImageData(*size, simd.PixelType.U8x3)
    simd.Resizer().resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size[1], size[0], 3)


def area(pixels: np.ndarray, box: Box, size: Size) -> np.ndarray:
    """The mean of the area that each new pixel covers; Lanczos where an image is enlarged, as img2dataset does.

    The box is rounded to whole pixels, which moves the picture by half a pixel of the source at most. Photographs of
    300-800 px to 256 px: 43 dB (median) from Pillow's Lanczos of the rounded box, 39 dB from that of the box itself.
    Where samples stand in for the mean (see `samples_a_side`) they are 40 dB or more from it, 52 dB at the median, and
    as far from Lanczos as the mean is.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    part = pixels[top:bottom, left:right]
    if part.shape[0] < size[1] or part.shape[1] < size[0]:
        return pillow(pixels, box, size, Image.Resampling.LANCZOS)
    count = samples_a_side(part.shape[1], part.shape[0], size)
    if cv2 is None:
        rows = _shrunk(part.astype(np.float64), size[1], count)
        return np.rint(_shrunk(rows.swapaxes(0, 1), size[0], count).swapaxes(0, 1)).astype(np.uint8)
    if count:
        part = cv2.resize(part, (count * size[0], count * size[1]), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA)


def samples_a_side(width: int, height: int, size: Size) -> int:
    """1 or 2 where 1 or 2 x 2 bilinear samples of a pixel's area have nearly its mean; 0 where they have not.

    A bilinear sample is itself the mean of an area, that of one pixel of the source, so one is enough for a pixel that
    is hardly larger, and 2 x 2 side by side are exactly the mean of 2 x 2 pixels. OpenCV takes them in less than half
    the time that it needs for the mean (0.7 and 1.7 ms for 256 x 256 of 420 x 420).
    """
    scales = width / size[0], height / size[1]
    if max(scales) <= 1.15:
        return 1
    return 2 if min(scales) >= 1.4 and max(scales) <= 2.5 else 0


INTERPOLATIONS: dict[str, Resample] = {
    "nearest": partial(pillow, resampling=Image.Resampling.NEAREST),
    "bilinear": partial(pillow, resampling=Image.Resampling.BILINEAR),
    "bicubic": partial(pillow, resampling=Image.Resampling.BICUBIC),
    "lanczos": partial(pillow, resampling=Image.Resampling.LANCZOS),
    "box": partial(pillow, resampling=Image.Resampling.BOX),
    "hamming": partial(pillow, resampling=Image.Resampling.HAMMING),
    "area": area,
    "lanczos_simd": lanczos_simd,
}


def check_interpolation(name: str) -> None:
    """ValueError where this machine lacks what the interpolation needs.

    lanczos_simd gives slightly other pixels than lanczos, so it is never put in its place unasked: the same command
    sees the same pixels on every machine, or says what is missing.
    """
    if name == "lanczos_simd" and simd is None:
        raise ValueError("--interpolation lanczos_simd needs cykooz.resizer (pip install ppsd[simd]); lanczos does not")


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h,w,3] -> contiguous [3,h,w]."""
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    if cv2 is not None:
        cv2.split(pixels, [planes[0], planes[1], planes[2]])  # in a seventh of numpy's time
    else:
        planes[:] = pixels.transpose(2, 0, 1)
    return planes


def _extent(start: float, end: float, length: int) -> float:
    """From start to end, less the rounding error by which start + extent would lie outside."""
    return end - start if start + (end - start) <= length else math.nextafter(length - start, 0.0)


def _shrunk(values: np.ndarray, count: int, samples: int) -> np.ndarray:
    """[n, ...] -> [count, ...]: means of parts of the first axis, of all of a part or of so many samples of it."""
    if not samples:
        return _means(values, count)
    places = (np.arange(count * samples) + 0.5) * (len(values) / (count * samples)) - 0.5
    places = np.clip(places, 0, len(values) - 1)
    before = places.astype(np.int64)
    rest = (places - before).reshape(-1, *[1] * (values.ndim - 1))
    sampled = (1 - rest) * values[before] + rest * values[np.minimum(before + 1, len(values) - 1)]
    return sampled.reshape(count, samples, *values.shape[1:]).mean(axis=1)


def _means(values: np.ndarray, count: int) -> np.ndarray:
    """[n, ...] -> [count, ...], n >= count: means over equal parts of the first axis, pixels on an edge divided."""
    edges = np.linspace(0, len(values), count + 1)
    whole = np.minimum(edges.astype(np.int64), len(values) - 1)
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(axis=0)])
    rest = (edges - whole).reshape(-1, *[1] * (values.ndim - 1))
    return np.diff(sums[whole] + rest * values[whole], axis=0) * (count / len(values))
