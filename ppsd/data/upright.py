"""An image as Pillow has opened it -> upright RGB."""

from __future__ import annotations

import warnings
from typing import Union

import numpy as np
from PIL import Image

from ppsd.types import BadRecord

UNSUPPORTED_PIXELS = "unsupported pixel format"

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """1 to 8, as EXIF or XMP say: 1 is upright, from 5 on width and height are exchanged."""
    if image.format == "JPEG" and not ("exif" in image.info or "xmp" in image.info):
        return 1  # which is so for most, and Pillow takes longer to find out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            orientation = image.getexif().get(_ORIENTATION_TAG)
            return int(orientation) if orientation in _TURNS else 1
        except Exception:  # noqa: BLE001  metadata that cannot be parsed does not say how the image is turned
            return 1


def turned_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H,W,3] as they are stored -> upright, contiguous."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright(image: Image.Image) -> Image.Image:
    """EXIF orientation applied, else as it is. Damaged pixels raise what Pillow raises."""
    image.load()
    orientation = orientation_of(image)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright_rgb(image: Image.Image) -> Union[Image.Image, BadRecord]:
    """EXIF orientation applied, transparency on white, 16 bits scaled to 8. Damaged pixels raise what Pillow raises."""
    image.load()
    orientation = orientation_of(image)
    rgb = _to_rgb(image)
    if isinstance(rgb, Image.Image) and orientation in _TURNS:
        return rgb.transpose(_TURNS[orientation])
    return rgb


def _to_rgb(image: Image.Image) -> Union[Image.Image, BadRecord]:
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        return BadRecord(UNSUPPORTED_PIXELS, "floating point numbers")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Union[Image.Image, BadRecord]:
    """Grey values of 0..65535 -> RGB of 0..255, which Pillow's own conversion would clip instead of scale."""
    values = grey_of_16_bits(image)
    if isinstance(values, BadRecord):
        return values
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def grey_of_16_bits(image: Image.Image) -> Union[np.ndarray, BadRecord]:
    """int64 [H,W] of 0..65535."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        return BadRecord(UNSUPPORTED_PIXELS, "grey values that do not fit into 16 bits")
    return values
