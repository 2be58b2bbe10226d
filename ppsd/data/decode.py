"""Bytes of an image file -> RGB image. Whatever is wrong with them is a BadRecord."""

from __future__ import annotations

import io
import warnings
from typing import Union

import numpy as np
from PIL import Image

from ppsd.types import BadRecord

NOT_AN_IMAGE = "not an image"
CORRUPT_IMAGE = "corrupt image"
TOO_MANY_PIXELS = "too many pixels"
UNSUPPORTED_PIXELS = "unsupported pixel format"

MAX_IMAGE_PIXELS = 178_956_970  # above it Pillow refuses to open an image, too

# Formats of photographs and drawings; the others that Pillow knows are documents, videos or start programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM", "ICO", "TGA")

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


def decode_image(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Union[Image.Image, BadRecord]:
    """An upright RGB image: EXIF orientation applied, transparency on white, 16 bits scaled to 8, the first frame.

    An image of more than `max_pixels` pixels is refused before any of them is decoded.
    """
    image = open_image(data, max_pixels)
    if isinstance(image, BadRecord):
        return image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is either harmless here or an error
        try:
            return _upright(image)
        except Exception as error:  # noqa: BLE001  damaged pixels make Pillow's plugins raise nearly anything
            return _corrupt(error)


def open_image(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Union[Image.Image, BadRecord]:
    """The image of which only the header has been read: whether it is one, of a known format and of a sane size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is either harmless here or found below
        try:
            image = Image.open(io.BytesIO(data), formats=_known_formats())
        except Image.DecompressionBombError as error:
            return BadRecord(TOO_MANY_PIXELS, str(error))
        except Image.UnidentifiedImageError:
            return BadRecord(NOT_AN_IMAGE, f"{len(data)} bytes starting with {data[:8]!r}")
        except Exception as error:  # noqa: BLE001  so do damaged headers
            return _corrupt(error)
    if image.width * image.height > max_pixels:
        return BadRecord(TOO_MANY_PIXELS, f"{image.width} x {image.height}, the limit is {max_pixels} pixels")
    return image


def _known_formats() -> list[str]:
    """The formats that this Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _corrupt(error: Exception) -> BadRecord:
    if isinstance(error, MemoryError):
        raise error
    return BadRecord(CORRUPT_IMAGE, f"{type(error).__name__}: {error}")


def _upright(image: Image.Image) -> Union[Image.Image, BadRecord]:
    image.load()
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if isinstance(rgb, Image.Image) and orientation in _TURNS:
        return rgb.transpose(_TURNS[orientation])
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  metadata that cannot be parsed does not say how the image is turned
        return 1


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
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        return BadRecord(UNSUPPORTED_PIXELS, "grey values that do not fit into 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
