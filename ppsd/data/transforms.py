"""RGB image -> the square of pixels that is trained on."""

from __future__ import annotations

from typing import Union

import numpy as np
from PIL import Image

from ppsd.data.seeds import Draw, uniform
from ppsd.types import BadRecord

TOO_SMALL = "too small"

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def resized_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Size after the short side was made int(resolution / 0.9), so that a random crop still shows most of the image."""
    short = int(resolution / 0.9)
    if width < height:
        return short, int(short * height / width)
    return int(short * width / height), short


def resize_and_crop(
    image: Image.Image, resolution: int, x: float = 0.5, y: float = 0.5, interpolation: str = "lanczos"
) -> Image.Image:
    """A resolution x resolution square of the resized image; x, y in [0, 1) say where, 0.5 is the centre.

    Only the pixels of the square are computed.
    """
    width, height = resized_size(*image.size, resolution)
    left, top = int(x * (width - resolution + 1)), int(y * (height - resolution + 1))
    scale_x, scale_y = image.width / width, image.height / height
    right, bottom = (left + resolution) * scale_x, (top + resolution) * scale_y
    box = (left * scale_x, top * scale_y, min(right, image.width), min(bottom, image.height))
    return image.resize((resolution, resolution), INTERPOLATIONS[interpolation], box)


def training_crop(
    image: Image.Image,
    seed: int,
    resolution: int,
    interpolation: str = "lanczos",
    center_crop: bool = False,
    random_flip: bool = False,
) -> Union[np.ndarray, BadRecord]:
    """Pixels uint8 [3,resolution,resolution] of a random or the central crop; all chance comes from the sample's seed.

    An image with a side below `resolution` is a BadRecord: it would have to be enlarged.
    """
    if min(image.size) < resolution:
        return BadRecord(TOO_SMALL, f"{image.width} x {image.height}, --resolution is {resolution}")
    x, y = (0.5, 0.5) if center_crop else (uniform(seed, Draw.CROP_X), uniform(seed, Draw.CROP_Y))
    pixels = np.asarray(resize_and_crop(image, resolution, x, y, interpolation))
    if random_flip and uniform(seed, Draw.FLIP) < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
