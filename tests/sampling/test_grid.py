from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ppsd.sampling.grid import image_grid, save_png

TILES = np.stack([np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)])


def test_tiles_stand_in_reading_order() -> None:
    grid = image_grid(TILES, columns=2)
    assert grid.shape == (8, 12, 3)
    assert [grid[0, 0, 0], grid[0, 6, 0], grid[4, 0, 0], grid[4, 6, 0]] == [10, 20, 30, 255]


def test_captions_of_any_length_keep_the_grid_regular() -> None:
    long = "a very long caption " * 20
    grid = image_grid(TILES, columns=3, captions=["short", long, "中文"])
    again = image_grid(TILES, columns=3, captions=["short", long, ""])
    assert grid.shape == again.shape
    assert (grid[10, 50] == 10).all()


def test_a_png_is_whole_or_not_there(tmp_path: Path) -> None:
    save_png(tmp_path / "a" / "b.png", TILES[0])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "b.png")), TILES[0])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.png"]


def test_a_smaller_picture_stands_in_the_middle_of_white() -> None:
    small = np.full((2, 2, 3), 7, np.uint8)
    grid = image_grid([TILES[0], small], columns=2)
    assert grid.shape == (4, 12, 3)
    assert (grid[1:3, 8:10] == 7).all()
    assert (grid[:, 6:8] == 255).all()
    assert (grid[:, 10:] == 255).all()
    assert (grid[0, 6:] == 255).all()
