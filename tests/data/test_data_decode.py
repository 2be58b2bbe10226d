"""Every kind of image file becomes an upright RGB image or a BadRecord that says what is wrong."""

from __future__ import annotations

import io
import random
import threading
import warnings
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ppsd.data import jpeg
from ppsd.data.decode import decode_image, decode_shrunk, upright_size
from ppsd.types import BadRecord
from tests.images import decode_pixels, encode, jpeg_bytes, noise_image, photographs, png_header_bytes


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


def the_same(data: bytes) -> bool:
    """Whether the pixels, or what is wrong with them, are those of the image."""
    image, pixels = decode_image(data), decode_pixels(data)
    if isinstance(image, BadRecord) or isinstance(pixels, BadRecord):
        return image == pixels
    return np.array_equal(np.asarray(image), pixels)


def jpegs() -> list[bytes]:
    """JPEGs of odd sizes: grey and colour, all subsamplings, baseline and progressive, from photographs and noise."""
    rng = random.Random(0)
    photos = [decoded(data) for data in photographs().values()]
    files = []
    for i in range(150):
        width, height = rng.randint(1, 150), rng.randint(1, 150)
        photo = rng.choice(photos)
        left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
        image = photo.crop((left, top, left + width, top + height)) if i % 3 else noise_image(width, height, i)
        options: dict[str, Any] = {"quality": rng.choice([5, 75, 95]), "progressive": i % 2 == 0}
        if i % 5 == 0:
            image = image.convert("L")
        else:
            options["subsampling"] = i % 3
        if i % 11 == 0:
            options["restart_marker_blocks"] = 3
        files.append(encode(image, **options))
    return files


def test_pixels_of_jpegs_are_bit_equal_to_pillows() -> None:
    files = [*jpegs(), *(data for name, data in photographs().items() if name.endswith(".jpg"))]
    for data in files:
        image = decoded(data)
        fast = jpeg.jpeg_pixels(data, *image.size)
        assert fast is not None
        assert np.array_equal(fast, np.asarray(image))
        assert the_same(data)


def test_pixels_without_simplejpeg_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    files = jpegs()
    with_it = [decode_pixels(data) for data in files]
    halves = [decode_shrunk(data, shrink=lambda width, height: 2 if min(width, height) > 16 else 1) for data in files]
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    for data, pixels, half in zip(files, with_it, halves):
        assert np.array_equal(decode_pixels(data), pixels)
        without = decode_shrunk(data, shrink=lambda width, height: 2 if min(width, height) > 16 else 1)
        assert not isinstance(without, BadRecord)
        assert np.array_equal(without.array, half.array)  # type: ignore[union-attr]
        assert without[1:] == half[1:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size in ((40, 24), (33, 50)):
        data = encode(noise_image(*size), exif=exif)
        assert the_same(data)
        assert jpeg.jpeg_pixels(data, *size) is not None
        turned = decode_shrunk(data, shrink=lambda width, height: 2)
        assert not isinstance(turned, BadRecord)
        assert (turned.width, turned.height) == (size if orientation < 5 else size[::-1])
        assert turned.denominator == (2 if orientation == 1 else 1)


def test_orientation_in_xmp_is_applied_to_pixels() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(noise_image(40, 24), xmp=xmp)
    assert the_same(data)
    assert upright_size(data) == decoded(data).size


def test_unusual_jpegs_are_left_to_pillow() -> None:
    image = noise_image(40, 24)
    for data in (encode(image.convert("CMYK")), encode(image, "MPO", save_all=True, append_images=[image])):
        assert the_same(data)
    assert decode_pixels(jpeg_bytes(20, 10), max_pixels=199) == decode_image(jpeg_bytes(20, 10), max_pixels=199)


def test_damage_is_found_where_pillow_finds_it_and_more() -> None:
    """Bytes, headers and ends of JPEGs are changed: no half-grey picture, and no sound picture is refused."""
    rng = random.Random(1)
    reasons = []
    for i in range(400):
        options: dict[str, Any] = {"progressive": True} if i % 3 == 0 else {"icc_profile": b"x" * 50}
        sound = encode(noise_image(rng.randint(8, 60), rng.randint(8, 60), i), **options)
        data = bytearray(sound)
        for _ in range(rng.randint(0, 3)):
            data[rng.randrange(len(data) if i % 2 else min(len(data), 600))] = rng.randrange(256)
        end = rng.randrange(len(data)) if i % 4 == 0 else len(data)
        damaged = bytes(data[:end]) + bytes(rng.randrange(256) for _ in range(rng.choice((0, 0, 3))))
        image, pixels = decode_image(damaged), decode_pixels(damaged)
        if isinstance(pixels, BadRecord) and not isinstance(image, BadRecord):
            assert pixels.reason == "corrupt image"
            assert damaged != sound
            reasons.append("passed over by pillow")
        else:
            assert the_same(damaged)
            reasons.append(image.reason if isinstance(image, BadRecord) else "image")
    assert reasons.count("passed over by pillow") > 20
    assert min(reasons.count("image"), reasons.count("corrupt image")) > 50


@pytest.mark.parametrize("count", [1, 8])
def test_a_few_bytes_too_many_are_no_damage(count: int) -> None:
    data = jpeg_bytes(40, 40)
    assert the_same(data[:-2] + bytes(count) + data[-2:])


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_of_a_truncated_jpeg_are_corrupt(keep: float, progressive: bool) -> None:
    data = encode(noise_image(200, 200), quality=90, progressive=progressive)
    record = decode_pixels(data[: int(len(data) * keep)])
    assert isinstance(record, BadRecord)
    assert record.reason == "corrupt image"


def test_memory_that_is_reused_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_thread", threading.local())
    files = jpegs()
    for data in files:
        assert np.array_equal(decode_shrunk(data, reuse=True).array, decode_pixels(data))  # type: ignore[union-attr]
    sizes = [decode_shrunk(data, reuse=True).array.nbytes for data in files]  # type: ignore[union-attr]
    assert len(jpeg._thread.buffer) == max(sizes)
    monkeypatch.setattr(jpeg, "REUSED_BYTES", 2999)
    small, large = jpeg_bytes(30, 30), jpeg_bytes(32, 32)
    for data, shares in ((small, True), (large, False)):
        first, second = (decode_shrunk(data, reuse=True).array for _ in range(2))  # type: ignore[union-attr]
        assert np.shares_memory(first, second) == shares
    assert not np.shares_memory(decode_pixels(small), decode_pixels(small))  # type: ignore[arg-type]


@pytest.mark.parametrize("denominator", [1, 2, 4, 8])
def test_a_shrunk_jpeg_shows_the_same_picture(denominator: int) -> None:
    image = noise_image(203, 150)
    pixels = decode_shrunk(encode(image, quality=95), shrink=lambda width, height: denominator)
    assert not isinstance(pixels, BadRecord)
    assert pixels[1:] == (203, 150, denominator)
    assert pixels.array.shape == (-(-150 // denominator), -(-203 // denominator), 3)
    whole = denominator * (203 // denominator), denominator * (150 // denominator)
    expected = np.asarray(image.crop((0, 0, *whole)).reduce(denominator), np.int16)
    actual = pixels.array[: whole[1] // denominator, : whole[0] // denominator].astype(np.int16)
    assert np.abs(actual - expected).mean() < 1.5


def test_a_png_is_not_shrunk() -> None:
    pixels = decode_shrunk(encode(noise_image(64, 64), "PNG"), shrink=lambda width, height: 2)
    assert pixels[1:] == (64, 64, 1)


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [((800, 600), (100, 75), 8), ((799, 600), (100, 75), 4), ((600, 600), (301, 200), 1), ((600, 600), (300, 300), 2)],
)
def test_the_smallest_scale_that_is_large_enough(size: Any, least: Any, expected: int) -> None:
    assert jpeg.denominator_for(*size, *least) == expected


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "MPO"])
def test_the_size_is_known_from_the_header(orientation: int | None, image_format: str) -> None:
    options: dict[str, Any] = {}
    if orientation is not None and image_format not in ("GIF", "BMP"):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    data = encode(noise_image(40, 24), image_format, **options)
    assert upright_size(data) == decoded(data).size


def test_the_size_of_what_is_no_image() -> None:
    assert upright_size(b"just a text file").reason == "not an image"  # type: ignore[union-attr]
    assert upright_size(png_header_bytes(60000, 60000)).reason == "too many pixels"  # type: ignore[union-attr]
    assert upright_size(png_header_bytes(300, 200)) == (300, 200)
    data = jpeg_bytes(90, 50)
    assert upright_size(data[: len(data) // 2]) == (90, 50)
    assert upright_size(data, max_pixels=4499) == decode_image(data, max_pixels=4499)
