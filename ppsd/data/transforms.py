"""Pixels of an image -> the crop of them that is trained on.

What is shown is chosen once, for an image of some size; then it is cut out of the image and of every other picture of
the same scene, each at its own scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Union

import numpy as np

from ppsd.data.resample import INTERPOLATIONS, Box, Size, channels_first
from ppsd.data.seeds import Draw, uniform
from ppsd.types import BadRecord

TOO_SMALL = "too small"


class Crop(NamedTuple):
    """What of a scene is shown: `box` of a picture of `image_size`, as `size` (both width, height), maybe mirrored."""

    box: Box
    image_size: Size
    size: Size
    mirrored: bool = False


def resized_size(width: int, height: int, resolution: int) -> Size:
    """Size after the short side was made int(resolution / 0.9), so that a random crop still shows most of the image."""
    short = int(resolution / 0.9)
    if width < height:
        return short, int(short * height / width)
    return int(short * width / height), short


def covering_size(width: int, height: int, size: Size) -> Size:
    """Size of the image scaled to cover a bucket's size: one side is the bucket's, the other is not less.

    kohya's sd-scripts, library/train_util.py, BucketManager.select_bucket.
    """
    if width / height > size[0] / size[1]:
        return max(size[0], int(width * (size[1] / height) + 0.5)), size[1]
    return size[0], max(size[1], int(height * (size[0] / width) + 0.5))


def scaled_size(width: int, height: int, resolution: int, bucket: Optional[Size] = None) -> Size:
    """Size that the image is scaled to: to cover the bucket, or for a random square."""
    return covering_size(width, height, bucket) if bucket else resized_size(width, height, resolution)


def crop_box(width: int, height: int, resized: Size, size: Size, x: float = 0.5, y: float = 0.5) -> Box:
    """What a crop of the resized image shows of an image of width x height pixels: left, top, right, bottom of it.

    x, y in [0, 1) say where the crop is, 0.5 is the centre.
    """
    left, top = int(x * (resized[0] - size[0] + 1)), int(y * (resized[1] - size[1] + 1))
    scale_x, scale_y = width / resized[0], height / resized[1]
    right, bottom = (left + size[0]) * scale_x, (top + size[1]) * scale_y
    return left * scale_x, top * scale_y, min(right, width), min(bottom, height)


def training_crop(
    image: Any,
    seed: int,
    resolution: int,
    interpolation: str = "lanczos",
    center_crop: bool = False,
    random_flip: bool = False,
    *,
    bucket: Optional[Size] = None,
    image_size: Optional[Size] = None,
    denominator: int = 1,
    enlarge: bool = False,
) -> Union[np.ndarray, BadRecord]:
    """Pixels uint8 [3,h,w] of a random or the central crop; all chance comes from the sample's seed.

    image: RGB pixels [H,W,3], or what numpy can make them of. Those of an image of another `image_size` are that image
    scaled down by `denominator`. Without a bucket's size the crop is resolution x resolution, and an image with a side
    below `resolution` is a BadRecord, unless `enlarge` is set. To cover a bucket small images are enlarged.
    """
    pixels = np.ascontiguousarray(image)
    width, height = image_size or (pixels.shape[1], pixels.shape[0])
    crop = choose_crop((width, height), seed, resolution, center_crop, random_flip, bucket=bucket, enlarge=enlarge)
    return crop if isinstance(crop, BadRecord) else cut(pixels, crop, interpolation, (1 / denominator, 1 / denominator))


def choose_crop(
    image_size: Size,
    seed: int,
    resolution: int,
    center_crop: bool = False,
    random_flip: bool = False,
    *,
    bucket: Optional[Size] = None,
    enlarge: bool = False,
) -> Union[Crop, BadRecord]:
    """What `training_crop` shows of an image of this size; with the same arguments the same."""
    width, height = image_size
    if bucket is None and not enlarge and min(width, height) < resolution:
        return BadRecord(TOO_SMALL, f"{width} x {height}, --resolution is {resolution}")
    size = bucket or (resolution, resolution)
    resized = scaled_size(width, height, resolution, bucket)
    x, y = (0.5, 0.5) if center_crop else (uniform(seed, Draw.CROP_X), uniform(seed, Draw.CROP_Y))
    box = crop_box(width, height, resized, size, x, y)
    return Crop(box, image_size, size, random_flip and is_mirrored(seed))


def cut(pixels: np.ndarray, crop: Crop, interpolation: str, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """uint8 [3,h,w] of RGB pixels [H,W,3], contiguous, of which the crop's image is 1 / scale (x, y) times as large."""
    box = scaled_box(crop, scale, (pixels.shape[1], pixels.shape[0]))
    return upright_or_mirrored(channels_first(INTERPOLATIONS[interpolation](pixels, box, crop.size)), crop)


def scaled_box(crop: Crop, scale: tuple[float, float], limits: Size) -> Box:
    """The crop's box in a picture that is `scale` (x, y) times as large as the image and has `limits` pixels."""
    left, top, right, bottom = crop.box
    right, bottom = min(right * scale[0], limits[0]), min(bottom * scale[1], limits[1])
    return left * scale[0], top * scale[1], right, bottom


def upright_or_mirrored(planes: np.ndarray, crop: Crop) -> np.ndarray:
    """[C,h,w] as the crop wants it, contiguous."""
    return np.ascontiguousarray(planes[..., ::-1]) if crop.mirrored else planes


def is_mirrored(seed: int) -> bool:
    """Whether --random_flip mirrors the sample with this seed."""
    return uniform(seed, Draw.FLIP) < 0.5
