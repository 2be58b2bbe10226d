"""The quick look at a JPEG's header: which are plain, and that their size is what Pillow says."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from PIL import Image

from ppsd.data.decode import decode_shrunk, open_image
from ppsd.data.jpeg_header import plain_jpeg_size
from ppsd.types import BadRecord
from tests.images import encode, noise_image

LIMIT = 10**6


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"comment": b"hi"}, {"icc_profile": b"x" * 70_000}, {"restart_marker_rows": 1}],
)
def test_size_of_plain_ones(mode: str, options: dict[str, Any]) -> None:
    data = encode(noise_image(37, 21).convert(mode), "JPEG", **options)
    assert plain_jpeg_size(data, LIMIT) == (37, 21) == Image.open(io.BytesIO(data)).size


def test_others_are_left_to_pillow() -> None:
    image = noise_image(24, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    others = [
        encode(image, "PNG"),
        encode(image, "JPEG", exif=exif),
        encode(image, "JPEG", xmp=b"<x/>"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "MPO", save_all=True, append_images=[image]),
        encode(image, "JPEG", keep_rgb=True),  # which Adobe's marker says
        b"",
        b"\xff\xd8\xff",
    ]
    assert [plain_jpeg_size(data, LIMIT) for data in others] == [None] * len(others)


def test_too_many_pixels_are_left_to_pillow_which_refuses_them() -> None:
    data = encode(noise_image(24, 16), "JPEG")
    assert plain_jpeg_size(data, 24 * 16) == (24, 16)
    assert plain_jpeg_size(data, 24 * 16 - 1) is None
    refused = decode_shrunk(data, 24 * 16 - 1)
    assert isinstance(refused, BadRecord)
    assert refused.reason == "too many pixels"


def test_every_cut_and_many_damages_of_a_header() -> None:
    """What it calls plain has the size that Pillow sees, if Pillow opens it at all."""
    data = encode(noise_image(40, 30), "JPEG")
    begin = data.index(b"\xff\xda")
    assert [plain_jpeg_size(data[:end], LIMIT) for end in range(begin)] == [None] * begin
    rng = random.Random(0)
    plain = 0
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[rng.randrange(begin)] ^= 1 << rng.randrange(8)
        size = plain_jpeg_size(bytes(damaged), LIMIT)
        if size is None:
            continue
        image = open_image(bytes(damaged), LIMIT)
        plain += 1
        assert isinstance(image, BadRecord) or (image.size == size and image.mode in ("L", "RGB"))
    assert plain > 1000
