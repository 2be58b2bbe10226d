"""Bytes of an image file -> RGB image or pixels. Whatever is wrong with them is a BadRecord."""

from __future__ import annotations

import functools
import io
import warnings
from typing import Callable, NamedTuple, TypeVar, Union

import numpy as np
from PIL import Image

from ppsd.data.jpeg import DamagedJpeg, jpeg_pixels
from ppsd.data.jpeg_header import plain_jpeg_size
from ppsd.data.upright import orientation_of, turned_pixels, upright, upright_rgb
from ppsd.types import BadRecord

NOT_AN_IMAGE = "not an image"
CORRUPT_IMAGE = "corrupt image"
TOO_MANY_PIXELS = "too many pixels"

MAX_IMAGE_PIXELS = 178_956_970  # above it Pillow refuses to open an image, too

# Formats of photographs and drawings; the others that Pillow knows are documents, videos or start programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM", "ICO", "TGA")

T = TypeVar("T")

_PNG_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # in the keys of chunks


class Pixels(NamedTuple):
    """RGB uint8 [ceil(height/denominator), ceil(width/denominator), 3] of an upright image of width x height pixels."""

    array: np.ndarray
    width: int
    height: int
    denominator: int = 1


def decode_image(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Union[Image.Image, BadRecord]:
    """An upright RGB image: EXIF orientation applied, transparency on white, 16 bits scaled to 8, the first frame.

    An image of more than `max_pixels` pixels is refused before any of them is decoded.
    """
    image = open_image(data, max_pixels)
    return image if isinstance(image, BadRecord) else _decoded(image)


def decode_as(
    data: bytes, convert: Callable[[Image.Image], Union[T, BadRecord]], max_pixels: int = MAX_IMAGE_PIXELS
) -> Union[T, BadRecord]:
    """What `convert` makes of the upright image, whose mode is that of the file."""
    image = open_image(data, max_pixels)
    return image if isinstance(image, BadRecord) else _guarded(lambda: convert(upright(image)))


def decode_shrunk(
    data: bytes,
    max_pixels: int = MAX_IMAGE_PIXELS,
    shrink: Callable[[int, int], int] = lambda width, height: 1,
    reuse: bool = False,
) -> Union[Pixels, BadRecord]:
    """The pixels of `decode_image`, bit for bit, without Pillow's detour for plain JPEGs.

    A JPEG in which libjpeg finds damage is a BadRecord, where Pillow would fill up the pixels that are lost.
    Plain JPEGs come at 1/1, 1/2, 1/4 or 1/8 of their size: 1 over shrink(width, height).

    reuse: the array is good until the thread's next call, which saves time.

    A JPEG that EXIF turns is not shrunk: a pixel that is cut off at its right or lower edge would change sides.
    """
    size, orientation = plain_jpeg_size(data, max_pixels), 1
    if size is None:
        image = open_image(data, max_pixels)
        if isinstance(image, BadRecord):
            return image
        if image.format != "JPEG" or image.mode not in ("L", "RGB"):
            return _from_pillow(image)
        size, orientation = image.size, orientation_of(image)
    width, height = size
    denominator = shrink(width, height) if orientation == 1 else 1
    try:
        pixels = jpeg_pixels(data, width, height, denominator, reuse)
    except DamagedJpeg as error:
        return BadRecord(CORRUPT_IMAGE, str(error))
    if pixels is None:
        image = open_image(data, max_pixels)
        return image if isinstance(image, BadRecord) else _from_pillow(image, denominator)
    if orientation >= 5:
        width, height = height, width
    return Pixels(turned_pixels(pixels, orientation), width, height, denominator)


def upright_size(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Union[tuple[int, int], BadRecord]:
    """Width and height of what `decode_image` would give, from the header; pixels that are damaged are not seen.

    Only a PNG or TIFF that says it is turned is decoded: Pillow does not know before what it will make of it.
    """
    if (size := plain_jpeg_size(data, max_pixels)) is not None:
        return size
    image = open_image(data, max_pixels)
    if isinstance(image, BadRecord):
        return image
    if image.format == "PNG" and not any(mark in data for mark in _PNG_ORIENTATION_MARKS):
        return image.size
    if orientation_of(image) < 5:
        return image.size
    if image.format == "TIFF":
        whole = decode_image(data, max_pixels)
        return whole if isinstance(whole, BadRecord) else whole.size
    return image.height, image.width


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
        except Exception as error:  # noqa: BLE001  damaged headers make Pillow's plugins raise nearly anything
            return _corrupt(error)
    if image.width * image.height > max_pixels:
        return BadRecord(TOO_MANY_PIXELS, f"{image.width} x {image.height}, the limit is {max_pixels} pixels")
    return image


@functools.cache
def _known_formats() -> list[str]:
    """The formats that this Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _corrupt(error: Exception) -> BadRecord:
    if isinstance(error, MemoryError):
        raise error
    return BadRecord(CORRUPT_IMAGE, f"{type(error).__name__}: {error}")


def _decoded(image: Image.Image) -> Union[Image.Image, BadRecord]:
    return _guarded(lambda: upright_rgb(image))


def _guarded(decode: Callable[[], Union[T, BadRecord]]) -> Union[T, BadRecord]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is either harmless here or an error
        try:
            return decode()
        except Exception as error:  # noqa: BLE001  so do damaged pixels
            return _corrupt(error)


def _from_pillow(image: Image.Image, denominator: int = 1) -> Union[Pixels, BadRecord]:
    width, height = image.size
    if denominator > 1:
        image.draft("RGB", (width // denominator, height // denominator))
    decoded = _decoded(image)
    if isinstance(decoded, BadRecord):
        return decoded
    if denominator == 1:
        width, height = decoded.size
    return Pixels(np.asarray(decoded), width, height, denominator)
