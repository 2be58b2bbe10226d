"""Annotators without weights, against what they say they do; what --annotator may name; networks handed in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppsd.data import annotators
from ppsd.data.annotators import ANNOTATORS, DRAWINGS, MODELS, annotator_of, hand_in, opencv
from ppsd.data.annotators.blur import blur, sigma_of
from ppsd.data.annotators.canny import canny
from ppsd.data.annotators.color import color
from ppsd.data.annotators.grey import grey
from ppsd.data.annotators.outlines import outlines
from ppsd.data.annotators.shuffle import displacement, shuffle
from ppsd.data.condition_maker import ConditionMaker
from ppsd.data.config import StreamConfig
from ppsd.data.inspection.job import make_setup
from ppsd.data.loader import StreamLoader
from ppsd.data.transforms import Crop
from tests.data.scenes import write_scenes
from tests.data.streams import take
from tests.images import noise_image
from tests.tiny import tiny_tokenizer

SIZES = [(64, 64), (37, 90), (513, 64), (1, 1), (3, 200)]


def picture(width: int = 96, height: int = 64, seed: int = 0) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(noise_image(width, height, seed)).transpose(2, 0, 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ANNOTATORS)
def test_a_function_of_pixels_and_seed_of_any_size(name: str, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    before = pixels.copy()
    made = annotator_of(name)(pixels, 5)
    assert made.dtype == np.uint8
    assert made.shape == pixels.shape
    assert made.flags.c_contiguous
    assert np.array_equal(pixels, before)
    assert np.array_equal(made, annotator_of(name)(pixels.copy(), 5))
    if name not in ("blur", "shuffle"):
        assert np.array_equal(made, annotator_of(name)(pixels, 6))


def test_canny_is_opencvs_with_both_thresholds() -> None:
    pixels = picture()
    image = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    edges = [cv2.Canny(image, low, high) for low, high in ((100, 200), (20, 60))]
    assert np.array_equal(canny(pixels, 0), np.stack([edges[0]] * 3))
    assert np.array_equal(annotator_of("canny:20,60")(pixels, 0), np.stack([edges[1]] * 3))
    assert (edges[0] > 0).sum() < (edges[1] > 0).sum()


@pytest.mark.parametrize(("size", "blocks"), [((64, 64), (8, 8)), ((128, 64), (16, 8)), ((72, 64), (9, 8))])
def test_colors_are_the_means_of_blocks(size: tuple[int, int], blocks: tuple[int, int]) -> None:
    pixels = picture(*size)
    across, down = blocks
    high, wide = size[1] // down, size[0] // across
    means = pixels.reshape(3, down, high, across, wide).mean(axis=(2, 4))
    expected = np.kron(np.rint(means), np.ones((1, high, wide)))
    assert np.array_equal(color(pixels, 0), expected)


def test_colors_of_a_size_that_does_not_divide() -> None:
    """Every block is flat, about as large as the others, and keeps the mean of all."""
    pixels = picture(101, 67)
    made = annotator_of("color:5")(pixels, 0)
    columns = 1 + np.flatnonzero((np.diff(made.astype(int), axis=2) != 0).any(axis=(0, 1)))
    lines = 1 + np.flatnonzero((np.diff(made.astype(int), axis=1) != 0).any(axis=(0, 2)))
    assert columns.tolist() == np.rint(np.linspace(0, 101, 9))[1:-1].tolist()
    assert lines.tolist() == np.rint(np.linspace(0, 67, 6))[1:-1].tolist()
    assert np.abs(made.mean(axis=(1, 2)) - pixels.mean(axis=(1, 2))).max() < 0.5


def test_shuffle_takes_each_pixel_from_where_its_field_says() -> None:
    """Of a picture whose red is x and whose green is y the result shows the field itself."""
    width, height = 200, 120
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y, np.full_like(x, 9)]).astype(np.uint8)
    field = displacement(width, height, 3)
    made = shuffle(pixels, 3)
    assert np.abs(made[0] - field[..., 0] * (width - 1)).max() < 1
    assert np.abs(made[1] - field[..., 1] * (height - 1)).max() < 1
    assert (made[2] == 9).all()


def test_the_fields_of_shuffle_are_smooth_cover_all_and_come_from_the_seed() -> None:
    fields = [displacement(256, 128, seed) for seed in range(6)]
    for field in fields:
        for axis in range(2):
            assert (field[..., axis].min(), field[..., axis].max()) == (0, 1)
        assert np.abs(np.diff(field, axis=0)).max() < 0.1
        assert np.abs(np.diff(field, axis=1)).max() < 0.1
        assert abs(np.corrcoef(field[..., 0].ravel(), field[..., 1].ravel())[0, 1]) < 0.99
    assert len({field.tobytes() for field in fields}) == 6
    rough, smooth = displacement(128, 128, 1, 16), displacement(128, 128, 1, 2)
    assert np.abs(np.diff(rough, axis=1)).mean() > 3 * np.abs(np.diff(smooth, axis=1)).mean()


def test_blur_is_a_gaussian_of_the_seeds_width() -> None:
    """A point becomes the bell curve, whose second moment is the square of its sigma."""
    pixels = np.zeros((3, 257, 257), np.uint8)
    pixels[:, 128, 128] = 255
    wide = np.repeat(np.repeat(pixels[:, 120:137, 120:137], 15, axis=1), 15, axis=2)[:, :255, :255]
    sigma = sigma_of(255, 4)
    made = blur(wide, 4).astype(float)[0]
    x = np.arange(255) - 127.0
    variance = (made.sum(axis=0) * x**2).sum() / made.sum()
    assert abs(variance - (sigma**2 + (15**2 - 1) / 12)) < 0.05 * variance
    sigmas = [sigma_of(512, seed) for seed in range(400)]
    assert 2 <= min(sigmas) < 2.1
    assert 7.8 < max(sigmas) <= 8
    assert abs(np.mean(np.log(sigmas)) - np.log(4)) < 0.06
    assert sigma_of(1024, 7) == 2 * sigma_of(512, 7)
    assert np.array_equal(annotator_of("blur:3,3")(wide, 1), annotator_of("blur:3,3")(wide, 2))
    assert not np.array_equal(blur(wide, 1), blur(wide, 2))


def test_outlines_are_where_regions_meet_and_nowhere_else() -> None:
    pixels = np.full((3, 300, 400), 90, np.uint8)
    pixels[0, 100:200, 150:300] = 140
    noisy = pixels.copy()
    noisy[:, ::17, ::13] = 255  # specks
    inside = np.zeros((300, 400), bool)
    inside[100:200, 150:300] = True
    shifted = [np.roll(inside, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    expected = np.logical_or.reduce(shifted) & ~np.logical_and.reduce(shifted)
    assert np.array_equal(outlines(pixels, 0)[0] == 255, _rounded(expected))
    assert ((outlines(noisy, 0)[0] == 255) != expected).mean() < 0.002
    assert (annotator_of("outlines:51")(pixels, 0) == 0).all()
    gradient = np.broadcast_to(np.linspace(0, 255, 400).astype(np.uint8), (3, 300, 400)).copy()
    assert (outlines(gradient, 0) == 0).all()


def _rounded(lines: np.ndarray) -> np.ndarray:
    """A median takes the corners off a rectangle: of 5 x 5 pixels around one 9 are inside, fewer than half."""
    found = lines.copy()
    for y, x in ((100, 150), (100, 299), (199, 150), (199, 299)):
        found[y - 3 : y + 4, x - 3 : x + 4] = _corner(y, x)
    return found


def _corner(y: int, x: int) -> np.ndarray:
    region = np.zeros((300, 400), np.uint8)
    region[100:200, 150:300] = 1
    counts = sum(np.roll(region, (d, r), (0, 1)) for d in range(-2, 3) for r in range(-2, 3))
    flat = counts > 12
    shifted = [np.roll(flat, (d, r), (0, 1)) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    edge = np.logical_or.reduce(shifted) & ~np.logical_and.reduce(shifted)
    return edge[y - 3 : y + 4, x - 3 : x + 4]


def test_grey_is_pillows() -> None:
    image = noise_image(50, 40)
    made = grey(np.asarray(image).transpose(2, 0, 1), 0)
    expected = np.asarray(image.convert("L"), int)
    assert np.abs(made - expected).max() <= 1
    assert (made[0] == made[1]).all()
    assert (made[0] == made[2]).all()


@pytest.mark.parametrize("name", ["canny", "outlines", "blur", "shuffle"])
def test_without_opencv_it_is_said_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencv, "cv2", None)
    with pytest.raises(ValueError, match=f"--annotator {name} needs OpenCV: pip install opencv-python-headless"):
        annotator_of(name)
    assert annotator_of("color")(picture(), 0).any()
    assert annotator_of("grey")(picture(), 0).any()


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        ("cany", None, "--annotator cany is not one of canny, outlines, color, grey, blur, shuffle, depth"),
        ("canny:1,2,3", None, r"3 numbers are too many; canny takes low \(100\) and high \(200\)"),
        ("grey:1", None, "1 numbers are too many; grey takes none"),
        ("canny:", None, "--annotator canny:: '' is not a number above 0"),
        ("color:-1", None, "'-1' is not a number above 0"),
        ("blur:2,inf", None, "'inf' is not a number above 0"),
        ("blur:two", None, "'two' is not a number above 0"),
        ("canny", "x", "--annotator canny needs no network: leave --annotator_model out"),
        ("depth", None, "--annotator depth needs --annotator_model: the folder of its network"),
        ("landmarks", None, "draws points that each record must have: .*tools/annotate.py --annotator landmarks"),
        ("pose", None, "draws points .*; there is no network for it here: .*tools/annotate.py --annotator pose"),
    ],
)
def test_what_cannot_be_meant(text: str, model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annotator_of(text, model)
    with pytest.raises(ValueError, match=message):
        StreamConfig("x", conditions=("conditioning",), annotator=text, annotator_model=model)


def test_a_model_without_an_annotator_is_refused() -> None:
    with pytest.raises(ValueError, match="--annotator_model m: give --annotator, too"):
        StreamConfig("x", conditions=("conditioning",), annotator_model="m")


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was loaded by a loader that is handed in for a test: it gives a depth of halves."""
    loaded: list[tuple[str, str]] = []

    def load(name: str, path: str) -> Any:
        loaded.append((name, path))
        return lambda pixels, seed: np.full((1, *pixels.shape[1:]), 0.5, np.float32)

    monkeypatch.setattr(annotators, "_handed_in", [])
    annotators._network.cache_clear()
    hand_in(load)
    return loaded


def model_config(**settings: Any) -> StreamConfig:
    return StreamConfig(
        "x", conditions=("conditioning", "depth"), annotator="depth", annotator_model="some/folder", **settings
    )


def test_a_network_makes_conditions_in_the_process_that_loaded_it(handed: list[tuple[str, str]]) -> None:
    make = ConditionMaker(model_config())
    ConditionMaker(model_config())
    assert handed == [("depth", "some/folder")], "once, however many makers there are"
    made = make({}, Crop((0, 0, 32, 32), (32, 32), (32, 32)), 0, picture(32, 32))
    assert isinstance(made, dict)
    assert np.array_equal(made["depth"], np.full((1, 32, 32), 0.5, np.float32))
    assert np.array_equal(made["conditioning"], np.full((3, 32, 32), 128, np.uint8))


def test_a_fork_does_not_run_a_network(handed: list[tuple[str, str]]) -> None:
    annotate = annotator_of("hed", "some/file")
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            annotate(picture(), 0)
            os.write(writer, b"ran")
        except ValueError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reader, 4096).decode()
    assert "--annotator hed is a network, which data workers cannot run: give --dataloader_num_workers 0" in said
    assert "tools/annotate.py --annotator hed" in said


def test_a_stream_with_a_network_has_no_workers(handed: list[tuple[str, str]], tmp_path: Path) -> None:
    write_scenes(tmp_path, 4, conditioning_image=None)
    config = replace(model_config(resolution=64, num_lanes=2), train_data_dir=str(tmp_path))
    (batch,) = take(StreamLoader(config, tiny_tokenizer(), batch_size=2), 1)
    assert np.array_equal(batch["depth"].numpy(), np.full((2, 1, 64, 64), 0.5, np.float32))
    with pytest.raises(ValueError, match="which data workers cannot run: give --dataloader_num_workers 0"):
        take(StreamLoader(config, tiny_tokenizer(), batch_size=2, num_workers=1), 1)


def test_where_no_network_can_run(handed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotators, "_handed_in", [])
    with pytest.raises(ValueError, match=r"which cannot run here: write the pictures with tools/annotate\.py"):
        annotator_of("depth", "another")


def test_a_look_at_the_data_runs_no_network(handed: list[tuple[str, str]]) -> None:
    setup = make_setup(model_config(), None, 0, details=False)
    ConditionMaker(setup.config)
    assert handed == []
    assert (setup.config.annotator, setup.config.annotator_model) == ("grey", None)


def test_the_names_are_told_apart() -> None:
    assert not set(ANNOTATORS) & set(MODELS)
    assert not set(DRAWINGS) & {*ANNOTATORS, *MODELS}
    assert (*ANNOTATORS, *MODELS, *DRAWINGS) == annotators.NAMES
