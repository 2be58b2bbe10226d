"""Picture files are read as training reads them, and what cannot be read is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsd.data.annotators.canny import canny
from ppsd.data.transforms import training_crop
from ppsd.sampling.picture_files import Annotator, read_condition, read_picture

SIZE = (64, 48)  # width, height


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_of_the_size_that_is_drawn_every_pixel_stays(tmp_path: Path) -> None:
    pixels = noise(48, 64, 3)
    file = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_picture(file, SIZE, "--image"), pixels)
    np.testing.assert_array_equal(read_condition("conditioning", file, SIZE, "--image"), pixels)


@pytest.mark.parametrize("shape", [(96, 128), (100, 300), (300, 70), (24, 32), (49, 65)])
def test_other_sizes_are_cut_as_training_cuts_them(tmp_path: Path, shape: tuple[int, int]) -> None:
    """With a bucket of the size that is drawn; both kinds of picture on one grid."""
    pixels = noise(*shape, 3)
    file = save(tmp_path / "a.png", pixels)
    crop = training_crop(pixels, 0, 48, center_crop=True, bucket=SIZE)
    assert isinstance(crop, np.ndarray)
    for found in (read_picture(file, SIZE, "--image"), read_condition("conditioning", file, SIZE, "--image")):
        np.testing.assert_array_equal(found, crop.transpose(1, 2, 0))


def test_grey_transparent_and_turned_files(tmp_path: Path) -> None:
    grey, rgba = noise(48, 64), noise(48, 64, 4)
    files = [save(tmp_path / "grey.png", grey), save(tmp_path / "rgba.png", rgba)]
    np.testing.assert_array_equal(read_condition("conditioning", files[0], SIZE, "--image"), np.stack([grey] * 3, -1))
    dropped = read_condition("conditioning", files[1], SIZE, "--image")
    np.testing.assert_array_equal(dropped, rgba[..., :3])
    shown = rgba[..., :3] / 255 * rgba[..., 3:] + (255 - rgba[..., 3:])
    assert np.abs(read_picture(files[1], SIZE, "--image") - shown).max() <= 1, "a photograph stands on white"
    turned = Image.fromarray(noise(64, 48, 3))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown a quarter turned
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(np.asarray(turned), -1)
    for found in (
        read_condition("conditioning", tmp_path / "turned.png", SIZE, "--image"),
        read_picture(tmp_path / "turned.png", SIZE, "--image"),
    ):
        np.testing.assert_array_equal(found, upright)


def test_masks_belong_to_a_picture(tmp_path: Path) -> None:
    picture = save(tmp_path / "picture.png", noise(96, 128, 3))
    half = np.zeros((48, 64), np.uint8)
    half[:, 32:] = 200
    mask = read_condition("mask", save(tmp_path / "half.png", half), SIZE, "--mask", (picture, "--image"))
    np.testing.assert_array_equal(mask, np.where(half, 255, 0))
    full = save(tmp_path / "full.png", np.full((48, 64), 255, np.uint8))
    assert (read_condition("mask", full, SIZE, "--mask", (picture, "--image")) == 255).all()
    empty = save(tmp_path / "empty.png", np.zeros((48, 64), np.uint8))
    with pytest.raises(ValueError, match=r"--mask: .*empty\.png: mask: empty \(all of its 64 x 48 pixels\)"):
        read_condition("mask", empty, SIZE, "--mask", (picture, "--image"))
    square = save(tmp_path / "square.png", noise(64, 64))
    with pytest.raises(ValueError, match=r"square\.png: mask: other shape .*\(64 x 64, the image is 128 x 96\)"):
        read_condition("mask", square, SIZE, "--mask", (picture, "--image"))


def test_depths_keep_16_bits(tmp_path: Path) -> None:
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    found = read_condition("depth", save(tmp_path / "deep.png", deep), SIZE, "--depth")
    np.testing.assert_allclose(found, deep / 65535, atol=1e-7)
    assert found.dtype == np.float32


def test_annotators_make_conditions_of_photographs() -> None:
    pixels = noise(48, 64, 3)
    edges = Annotator("canny", None, "conditioning")(pixels, 0)
    np.testing.assert_array_equal(edges, canny(pixels.transpose(2, 0, 1), 0).transpose(1, 2, 0))
    depth = Annotator("canny", None, "depth")(pixels, 0)
    assert depth.shape == (48, 64)
    np.testing.assert_allclose(depth, edges[..., 0] / 255, atol=1e-6)
    with pytest.raises(ValueError, match="--annotator sketchy is not one of canny"):
        Annotator("sketchy", None, "conditioning")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"--image: .*a\.png: unreadable image \(No such file or directory\)"),
        (b"", r"--image: .*a\.png: empty image"),
        (b"no picture", r"--image: .*a\.png: not an image"),
        ("cut", r"--image: .*a\.png: (conditioning image: )?corrupt image"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, data: object, message: str) -> None:
    file = tmp_path / "a.png"
    if data == "cut":
        save(file, noise(48, 64, 3))
        file.write_bytes(file.read_bytes()[:2000])
    elif isinstance(data, bytes):
        file.write_bytes(data)
    for read in (read_picture, lambda *args: read_condition("conditioning", *args)):
        with pytest.raises(ValueError, match=message) as caught:
            read(file, SIZE, "--image")
        assert "\n" not in str(caught.value)
