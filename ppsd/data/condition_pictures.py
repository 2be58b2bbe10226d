"""Bytes of a condition's image file -> the crop of it that goes with the crop of the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Union

import numpy as np
from PIL import Image

from ppsd.data.conditions import NOUNS
from ppsd.data.decode import decode_as, decode_shrunk
from ppsd.data.jpeg import denominator_for
from ppsd.data.resample import Size
from ppsd.data.transforms import Crop, cut, scaled_box, upright_or_mirrored
from ppsd.data.upright import UNSUPPORTED_PIXELS, grey_of_16_bits
from ppsd.formats.image_bytes import read_image_file
from ppsd.types import BadRecord

MASKED = 128  # grey levels from here on are painted anew
_JPEG = b"\xff\xd8\xff"
_WHITE = 65535


class Settings:
    """How pictures are decoded and resized: those of the stream."""

    def __init__(self, interpolation: str, max_pixels: int, scaled_jpeg: bool = False) -> None:
        self.interpolation, self.max_pixels, self.scaled_jpeg = interpolation, max_pixels, scaled_jpeg


def condition_crop(name: str, value: Any, crop: Crop, settings: Settings) -> Union[np.ndarray, BadRecord]:
    """The array of condition `name` (see ppsd.data.conditions), or what is wrong, which does not depend on the crop.

    value: what the record's meta has for it: the path or the bytes of an image file, or a BadRecord.
    """
    data = _file_of(value)
    made = data if isinstance(data, BadRecord) else _CROPS[name](data, crop, settings)
    return BadRecord(f"{NOUNS[name]}: {made.reason}", made.detail) if isinstance(made, BadRecord) else made


def _file_of(value: Any) -> Union[bytes, BadRecord]:
    if isinstance(value, Path):
        return read_image_file(value)
    if isinstance(value, (bytes, BadRecord)):
        return value
    return BadRecord("no image in its column", f"{type(value).__name__}: {str(value)[:80]!r}")


def _conditioning(data: bytes, crop: Crop, settings: Settings) -> Union[np.ndarray, BadRecord]:
    """uint8 [3,h,w], resized as the picture is. Grey is three equal channels, transparency is dropped."""
    if data.startswith(_JPEG):
        decoded = decode_shrunk(data, settings.max_pixels, _shrink(crop, settings), reuse=True)
        if isinstance(decoded, BadRecord):
            return decoded
        pixels, size, denominator = decoded.array, (decoded.width, decoded.height), decoded.denominator
    else:
        made = decode_as(data, _rgb, settings.max_pixels)
        if isinstance(made, BadRecord):
            return made
        pixels, size, denominator = made, (made.shape[1], made.shape[0]), 1
    scale = _scale(crop, size)
    if isinstance(scale, BadRecord):
        return scale
    return cut(pixels, crop, settings.interpolation, (scale[0] / denominator, scale[1] / denominator))


def _mask(data: bytes, crop: Crop, settings: Settings) -> Union[np.ndarray, BadRecord]:
    """uint8 [1,h,w] of 0 and 255: where the mean of the area that a pixel covers is light; enlarged smoothly."""
    grey = decode_as(data, _grey, settings.max_pixels)
    if isinstance(grey, BadRecord):
        return grey
    masked = np.asarray(grey) >= MASKED
    if masked.all() or not masked.any():
        return BadRecord("full" if masked.any() else "empty", f"all of its {grey.width} x {grey.height} pixels")
    shrinks = crop.box[2] - crop.box[0] > crop.size[0] * crop.image_size[0] / grey.width
    resized = _resized(grey, crop, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
    return resized if isinstance(resized, BadRecord) else np.where(resized >= MASKED, 255, 0).astype(np.uint8)


def _depth(data: bytes, crop: Crop, settings: Settings) -> Union[np.ndarray, BadRecord]:
    """float32 [1,h,w] in 0..1."""
    depth = decode_as(data, _depth_map, settings.max_pixels)
    return depth if isinstance(depth, BadRecord) else _resized(depth, crop, Image.Resampling.BILINEAR)


_CROPS: dict[str, Callable[[bytes, Crop, Settings], Union[np.ndarray, BadRecord]]] = {
    "conditioning": _conditioning,
    "mask": _mask,
    "depth": _depth,
}


def _resized(image: Image.Image, crop: Crop, resampling: Image.Resampling) -> Union[np.ndarray, BadRecord]:
    """[1,h,w] of an image with one channel."""
    scale = _scale(crop, image.size)
    if isinstance(scale, BadRecord):
        return scale
    pixels = np.asarray(image.resize(crop.size, resampling, scaled_box(crop, scale, image.size)))
    return upright_or_mirrored(pixels[None], crop)


def _scale(crop: Crop, size: Size) -> Union[tuple[float, float], BadRecord]:
    """How much larger than the image a picture of `size` is, in x and y."""
    if not same_shape(size, crop.image_size):
        width, height = crop.image_size
        return BadRecord("other shape than the image", f"{size[0]} x {size[1]}, the image is {width} x {height}")
    return size[0] / crop.image_size[0], size[1] / crop.image_size[1]


def same_shape(size: Size, other: Size) -> bool:
    """Whether both can be the same picture at two scales, each side rounded up or down to whole pixels."""
    ratio = size[0] * other[1] / (size[1] * other[0])
    rounding = (1 + 1 / min(size[0], other[0])) * (1 + 1 / min(size[1], other[1]))
    return 1 / rounding <= ratio <= rounding


def _shrink(crop: Crop, settings: Settings) -> Callable[[int, int], int]:
    """By how much a JPEG can be decoded smaller: as ppsd.data.sample does with the image."""
    if not settings.scaled_jpeg:
        return lambda width, height: 1
    left, top, right, bottom = crop.box
    least_width = crop.size[0] * crop.image_size[0] / (right - left)
    least_height = crop.size[1] * crop.image_size[1] / (bottom - top)
    return lambda width, height: denominator_for(width, height, least_width, least_height)


def _rgb(image: Image.Image) -> Union[np.ndarray, BadRecord]:
    """uint8 [H,W,3]."""
    plain = _eight_bits(image)
    return plain if isinstance(plain, BadRecord) else np.array(plain.convert("RGB"))


def _grey(image: Image.Image) -> Union[Image.Image, BadRecord]:
    plain = _eight_bits(image)
    return plain if isinstance(plain, BadRecord) else plain.convert("RGB").convert("L")


def _eight_bits(image: Image.Image) -> Union[Image.Image, BadRecord]:
    if image.mode == "F":
        return BadRecord(UNSUPPORTED_PIXELS, "floating point numbers")
    if not image.mode.startswith("I"):
        return image
    values = grey_of_16_bits(image)
    return values if isinstance(values, BadRecord) else Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _depth_map(image: Image.Image) -> Union[Image.Image, BadRecord]:
    """Mode F, in 0..1. 16 bits keep their precision; floating point numbers beyond 0..1 are scaled by their range."""
    if image.mode == "F":
        values: np.ndarray = np.asarray(image, np.float32)
        if not np.isfinite(values).all():
            return BadRecord(UNSUPPORTED_PIXELS, "numbers that are not finite")
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            values = (values - low) / max(high - low, 1e-30)
        return Image.fromarray(np.clip(values, 0, 1).astype(np.float32))
    if image.mode.startswith("I"):
        sixteen = grey_of_16_bits(image)
        if isinstance(sixteen, BadRecord):
            return sixteen
        return Image.fromarray(sixteen.astype(np.float32) / np.float32(_WHITE))
    return Image.fromarray(np.asarray(image.convert("RGB").convert("L"), np.float32) / np.float32(255))
