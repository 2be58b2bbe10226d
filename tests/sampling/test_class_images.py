from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ppsd.sampling import class_images
from ppsd.sampling.class_images import batches, draw_missing, file_name, image_files, missing_numbers
from ppsd.sampling.pipeline import generate
from ppsd.types import World
from tests.images import jpeg_bytes
from tests.tiny import tiny_pipeline

PROMPT = "a photo of a circle"
SETTINGS: dict[str, Any] = {
    "batch_size": 2,
    "seed": 5,
    "guidance_scale": 2.0,
    "num_inference_steps": 2,
    "progress": False,
}


def draw(folder: Path, count: int, **changes: Any) -> None:
    missing = missing_numbers(folder, PROMPT, count)
    draw_missing(tiny_pipeline(), folder, PROMPT, missing, **{**SETTINGS, **changes})


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in folder.iterdir()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "class"
    draw(folder, 5)
    return folder


def test_exactly_as_many_as_are_missing_are_drawn(whole: Path, tmp_path: Path) -> None:
    drawn = pictures(whole)
    assert sorted(drawn) == [file_name(n, PROMPT) for n in range(5)]
    assert all(picture.shape == (64, 64, 3) for picture in drawn.values()), "of the size that the UNet is of"
    assert len({picture.tobytes() for picture in drawn.values()}) == 5
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    (tmp_path / "2_more").mkdir()
    (tmp_path / "2_more" / "b.jpg").write_bytes(jpeg_bytes())
    assert missing_numbers(tmp_path, PROMPT, 5) == [0, 1, 2]
    assert missing_numbers(tmp_path, PROMPT, 2) == []
    assert missing_numbers(tmp_path / "not there", PROMPT, 2) == [0, 1]
    assert missing_numbers(whole, PROMPT, 7) == [5, 6]
    assert missing_numbers(whole, "a square", 7) == [0, 1], "another prompt's pictures count, and have other names"


def test_pictures_are_those_that_generate_draws(whole: Path) -> None:
    rows = generate(tiny_pipeline(), [PROMPT] * 6, seed=5, guidance_scale=2.0, num_inference_steps=2, batch_size=2)
    for number, row in enumerate(rows[:5]):
        np.testing.assert_array_equal(row, pictures(whole)[file_name(number, PROMPT)])


@pytest.mark.parametrize("lost", [[4], [1, 2, 3, 4], [0, 2]])
def test_a_drawing_that_was_broken_off_goes_on_with_the_same_pictures(
    whole: Path, tmp_path: Path, lost: list[int]
) -> None:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for number in lost:
        (tmp_path / file_name(number, PROMPT)).unlink()
    draw(tmp_path, 5)
    assert_same(pictures(tmp_path), pictures(whole))


def test_what_is_there_is_not_written_again(whole: Path, tmp_path: Path) -> None:
    kept = tmp_path / file_name(0, PROMPT)
    kept.write_bytes((whole / kept.name).read_bytes())
    before = kept.stat().st_mtime_ns
    draw(tmp_path, 2)
    assert kept.stat().st_mtime_ns == before
    with mock.patch.object(class_images, "generate", side_effect=AssertionError("nothing is missing")):
        draw(tmp_path, 2)


def test_a_kill_while_writing_leaves_no_half_picture(whole: Path, tmp_path: Path) -> None:
    saved = iter(range(4))

    def killed(path: Path, picture: np.ndarray) -> None:
        if next(saved) == 3:
            path.with_name(f".{path.name}.0123abcd.tmp").write_bytes(b"\x89PNG half")
            raise KeyboardInterrupt
        class_images_save(path, picture)

    class_images_save = class_images.save_png
    with mock.patch.object(class_images, "save_png", killed), pytest.raises(KeyboardInterrupt):
        draw(tmp_path, 5)
    assert len(image_files(tmp_path)) == 3
    (half,) = tmp_path.glob(".*.tmp")
    half.unlink()  # which the others are read without
    draw(tmp_path, 5)
    assert_same(pictures(tmp_path), pictures(whole))


def test_processes_share_the_work(whole: Path, tmp_path: Path) -> None:
    """Both look before either draws."""
    missing, folder = missing_numbers(tmp_path, PROMPT, 5), tmp_path
    for rank, counts in ((0, 3), (1, 2)):
        draw_missing(tiny_pipeline(), folder, PROMPT, missing, **SETTINGS, world=World(rank, 2))
        assert len(image_files(folder)) == (counts if rank == 0 else 5)
    assert_same(pictures(folder), pictures(whole))


def test_batches_begin_at_the_same_numbers_whatever_is_missing() -> None:
    assert list(batches([0, 1, 2, 3, 4], 2)) == [(range(0, 2), [0, 1]), (range(2, 4), [2, 3]), (range(4, 6), [4])]
    assert list(batches([1, 6], 4)) == [(range(0, 4), [1]), (range(4, 8), [6])]


def test_a_shorter_batch_size_draws_from_the_same_noise(whole: Path, tmp_path: Path) -> None:
    draw(tmp_path, 5, batch_size=1)
    for name, picture in pictures(tmp_path).items():
        assert np.abs(picture.astype(int) - pictures(whole)[name].astype(int)).max() <= 1
