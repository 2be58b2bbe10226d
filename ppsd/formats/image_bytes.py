"""The bytes of an image file: how many there may be, and what kind they are."""

from __future__ import annotations

import os
from pathlib import Path

from ppsd.types import BadRecord

MAX_IMAGE_BYTES = 47 * 2**20
"""With the longest caption and meta, base64 of it just fits into a line of ppsd.formats.lines."""

EMPTY_IMAGE = "empty image"
UNREADABLE_IMAGE = "unreadable image"
IMAGE_TOO_LARGE = "image file too large"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "img")
_BEGINNINGS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


def image_extension(image: bytes) -> str:
    """The usual file name extension of an image, without a dot; "img" where it is none of the usual kinds."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return next((extension for begin, extension in _BEGINNINGS if image.startswith(begin)), "img")


def check_size(size: int, where: object) -> BadRecord | None:
    """None for a size in bytes that an image may have. `where` is for the message."""
    if size > MAX_IMAGE_BYTES:
        return BadRecord(IMAGE_TOO_LARGE, f"{where}: {size} bytes, the limit is {MAX_IMAGE_BYTES}")
    return None if size else BadRecord(EMPTY_IMAGE, str(where))


def read_image_file(path: Path) -> bytes | BadRecord:
    """The bytes of an image file, which nobody has looked at."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read() if size <= MAX_IMAGE_BYTES else b""
    except OSError as error:
        return BadRecord(UNREADABLE_IMAGE, f"{path}: {error.strerror or error}")
    return check_size(len(data) or size, path) or data
