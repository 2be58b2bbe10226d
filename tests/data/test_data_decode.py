"""Every kind of image file becomes an upright RGB image or a BadRecord that says what is wrong."""

from __future__ import annotations

import io
import random
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ppsd.data.decode import decode_image
from ppsd.types import BadRecord
from tests.images import encode, jpeg_bytes, noise_image, photographs, png_header_bytes


def decoded(data: bytes) -> Image.Image:
    image = decode_image(data)
    assert isinstance(image, Image.Image), image
    assert image.mode == "RGB"
    return image


def difference(image: Image.Image, expected: Image.Image) -> float:
    """Mean absolute difference in levels of 0..255."""
    assert image.size == expected.size
    return float(np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16)).mean())


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "TGA"])
def test_formats(image_format: str) -> None:
    image = noise_image(48, 48)
    assert difference(decoded(encode(image, image_format)), image) < 6


def test_real_photographs() -> None:
    sizes = {name: decoded(data).size for name, data in photographs().items()}
    assert sizes["chelsea.png"] == (451, 300)
    assert sizes["china.jpg"] == (640, 427)
    assert len(sizes) == 6


def test_one_pixel() -> None:
    assert decoded(encode(Image.new("RGB", (1, 1), (10, 200, 30)), "PNG")).getpixel((0, 0)) == (10, 200, 30)


def test_grey_and_bilevel() -> None:
    assert decoded(encode(Image.new("L", (2, 2), 77), "PNG")).getpixel((0, 0)) == (77, 77, 77)
    assert decoded(encode(Image.new("1", (2, 2), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_keeps_its_colours() -> None:
    image = Image.new("RGB", (32, 32), (200, 30, 60))
    assert difference(decoded(encode(image.convert("CMYK"), "JPEG", quality=95)), image) < 4


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(image_format: str) -> None:
    values = np.array([[0, 1000, 20000], [32768, 50000, 65535]], np.uint16)
    image = np.asarray(decoded(encode(Image.fromarray(values), image_format)))
    assert (image[..., 0] == np.round(values / 257)).all()
    assert (image[..., 0] == image[..., 2]).all()


def test_16_bit_colour_is_scaled() -> None:
    values = np.array([[[65535, 32896, 0], [1000, 20000, 40000]]], np.uint16)  # blue, green, red for OpenCV
    image = np.asarray(decoded(cv2.imencode(".png", values)[1].tobytes()))
    assert np.abs(image[..., ::-1].astype(int) - values / 257).max() <= 1


def test_floating_point_pixels_are_refused() -> None:
    record = decode_image(encode(Image.new("F", (4, 4), 0.5), "TIFF"))
    assert record == BadRecord("unsupported pixel format", "floating point numbers")


def test_transparency_is_composited_on_white() -> None:
    rgba = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decoded(encode(rgba, "PNG")).getpixel((0, 0)) == (127, 127, 127)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decoded(encode(clear, "WEBP", lossless=True)).getpixel((0, 0)) == (255, 255, 255)
    grey = Image.new("LA", (4, 4), (0, 0))
    assert decoded(encode(grey, "PNG")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_palette_with_transparency(image_format: str) -> None:
    image = Image.new("P", (4, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    result = decoded(encode(image, image_format, transparency=0))
    assert [result.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_palette_with_an_alpha_a_colour() -> None:
    image = Image.new("P", (2, 1), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    assert decoded(encode(image, "PNG", transparency=bytes([255, 128]))).getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_colour_of_an_rgb_png() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (80, 9, 9))
    result = decoded(encode(image, "PNG", transparency=(9, 9, 9)))
    assert [result.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (80, 9, 9)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(noise_image(40, 24), image_format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert difference(decoded(data), expected) == 0
    assert expected.size == ((24, 40) if orientation > 4 else (40, 24))


def test_exif_that_cannot_be_parsed_does_not_spoil_the_image() -> None:
    for exif in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        assert decoded(encode(noise_image(16, 16), "JPEG", exif=exif)).size == (16, 16)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(image_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **_lossless(image_format))
    assert decoded(data).getpixel((4, 4)) == (255, 0, 0)


def _lossless(image_format: str) -> dict[str, bool]:
    return {"lossless": True} if image_format == "WEBP" else {}


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.98])
def test_a_truncated_jpeg_is_corrupt(keep: float) -> None:
    data = jpeg_bytes(200, 200)
    record = decode_image(data[: int(len(data) * keep)])
    assert isinstance(record, BadRecord)
    assert record.reason == "corrupt image"
    assert "truncated" in record.detail


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"just a text file, no image\n" * 9, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image(data: bytes) -> None:
    record = decode_image(data)
    assert isinstance(record, BadRecord)
    assert record.reason == "not an image"
    assert record.detail.startswith(f"{len(data)} bytes")


def test_a_decompression_bomb_is_a_value_not_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side in (60000, 13378):  # 13378^2 is just above the limit
            record = decode_image(png_header_bytes(side, side))
            assert isinstance(record, BadRecord)
            assert record.reason == "too many pixels"
            assert str(side**2) in record.detail
        below = decode_image(png_header_bytes(10000, 10000))  # above Pillow's limit for a warning, and without pixels
        assert isinstance(below, BadRecord)
        assert below.reason == "corrupt image"


def test_the_pixel_limit_can_be_lower() -> None:
    assert decode_image(jpeg_bytes(20, 10), max_pixels=199) == BadRecord(
        "too many pixels", "20 x 10, the limit is 199 pixels"
    )
    assert isinstance(decode_image(jpeg_bytes(20, 10), max_pixels=200), Image.Image)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"])
def test_damage_never_raises(image_format: str) -> None:
    data = encode(noise_image(24, 24), image_format)
    rng = random.Random(0)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        result = decode_image(bytes(damaged[: rng.randint(1, len(damaged))]), max_pixels=10**6)
        outcomes.add(result.reason if isinstance(result, BadRecord) else "image")
    assert outcomes & {"corrupt image", "not an image"}
    assert outcomes <= {"image", "corrupt image", "not an image", "too many pixels", "unsupported pixel format"}
