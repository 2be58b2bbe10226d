from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsd.data.demo import CAPTIONS, COLORS, HELD_OUT, NAMES, PAIRS, SHAPES, make_caption, make_example, nearest_color
from ppsd.data.demo_conditions import EDGE, GROUND, make_conditions
from ppsd.data.demo_kinds import STRIPES
from ppsd.formats.image_folder import read_image_folder
from ppsd.formats.items import FolderItem

TOOL = Path(__file__).parents[2] / "tools" / "make_demo_data.py"


def make(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, "--output_path", folder, *flags], capture_output=True, text=True)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert make(folder, "--num_images", "12").returncode == 0
    return folder


def test_every_line_names_a_picture_its_outline_and_what_is_on_it(demo: Path) -> None:
    rows = [json.loads(line) for line in (demo / "demo.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert len({row["image_id"] for row in rows}) == 12
    for i, row in enumerate(rows):
        example = make_example(i)
        image = Image.open(demo / row["image"])
        assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
        assert row["caption"] == example.caption
        assert np.abs(np.asarray(image, int) - np.asarray(example.image, int)).mean() < 3
        assert Image.open(demo / row["conditioning_image"]).size == (64, 64)


def test_the_same_flags_give_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    assert make(tmp_path, "--num_images", "12").returncode == 0
    assert hashes(tmp_path) == hashes(demo)


def test_a_longer_set_begins_with_the_shorter_and_another_seed_is_another_set(demo: Path, tmp_path: Path) -> None:
    make(tmp_path / "longer", "--num_images", "14")
    make(tmp_path / "other", "--num_images", "12", "--seed", "1")
    pictures = {name: value for name, value in hashes(demo).items() if name.startswith("images/")}
    longer, other = hashes(tmp_path / "longer"), hashes(tmp_path / "other")
    assert pictures.items() <= longer.items()
    assert not set(pictures.values()) & set(other.values())


def test_impossible_flags_are_refused(tmp_path: Path) -> None:
    run = make(tmp_path, "--size", "4")
    assert run.returncode == 2
    assert "--size must be at least 16, not 4" in run.stderr


def test_colors_are_far_apart() -> None:
    distances = [np.linalg.norm(np.subtract(COLORS[a], COLORS[b])) for a, b in itertools.combinations(COLORS, 2)]
    assert min(distances) > 112
    assert [NAMES[i] for i in nearest_color(np.array(list(COLORS.values()), np.uint8))] == list(NAMES)


def test_held_out_pairs_never_occur_and_all_others_do() -> None:
    assert len(set(HELD_OUT)) == 10
    assert [pair[0] for pair in HELD_OUT] == sorted((pair[1] for pair in HELD_OUT), key=lambda c: NAMES.index(c))
    assert all(color != background for color, background in HELD_OUT)
    drawn = {(example.color, example.background) for example in (make_example(i, size=16) for i in range(1500))}
    assert drawn == set(PAIRS)
    assert not drawn & set(HELD_OUT)


def test_a_picture_shows_what_it_says() -> None:
    for i in range(100):
        example = make_example(i)
        named = nearest_color(np.asarray(example.image))
        border = np.concatenate([named[:3].ravel(), named[-3:].ravel(), named[:, :3].ravel(), named[:, -3:].ravel()])
        assert (border == NAMES.index(example.background)).all()
        assert 0.03 < (named == NAMES.index(example.color)).mean() < 0.5
        assert example.color in example.caption
        assert example.background in example.caption
        assert example.shape in example.caption


def test_an_outline_runs_around_the_shape() -> None:
    example = make_example(0)
    line = np.asarray(example.outline)[..., 0] > 64
    shape = nearest_color(np.asarray(example.image)) == NAMES.index(example.color)
    grown = np.zeros_like(shape)
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        grown |= np.roll(shape, (down, right), (0, 1))
    edge = grown & (np.roll(~shape, 1, 0) | np.roll(~shape, -1, 0) | np.roll(~shape, 1, 1) | np.roll(~shape, -1, 1))
    assert line.sum() > 20
    assert (line & edge).sum() > 0.9 * line.sum()


def test_captions_bind_each_color_to_its_place() -> None:
    captions = {make_caption(s, "orange", "blue", i) for s in SHAPES for i in range(len(CAPTIONS))}
    assert len(captions) == len(SHAPES) * len(CAPTIONS)
    assert make_caption("star", "orange", "blue") == "an orange star on a blue background"
    assert not captions & {make_caption(s, "blue", "orange", i) for s in SHAPES for i in range(len(CAPTIONS))}


def test_the_other_kinds_are_image_folders(tmp_path: Path) -> None:
    assert make(tmp_path / "a", "--num_images", "3", "--kind", "stripes").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [make_example(i).caption for i in range(3)]
    striped = np.asarray(Image.open(tmp_path / "a" / rows[0]["file_name"]), int)
    plain = np.asarray(make_example(0).image, int)
    changed = (np.abs(striped - plain).max(axis=-1) > 100).mean(axis=1)  # share of each row
    filled = np.arange(64) * STRIPES // 64 % 2 == 0
    assert changed[~filled].max() < 0.05 < changed[filled].max()
    assert make(tmp_path / "b", "--num_images", "2", "--kind", "ring").returncode == 0
    assert sorted(hashes(tmp_path / "b")) == ["000000.jpg", "000001.jpg"]


def test_conditions_are_an_image_folder_that_names_outlines_and_depths(tmp_path: Path) -> None:
    assert make(tmp_path / "a", "--num_images", "3", "--kind", "conditions").returncode == 0
    items = [item for _, item in read_image_folder(tmp_path / "a")]
    assert len(items) == 3
    for i, item in enumerate(items):
        assert isinstance(item, FolderItem)
        made = make_conditions(i)
        assert item.caption == make_example(i).caption
        outline, depth = (np.asarray(Image.open(item.meta[name])) for name in ("conditioning_image", "depth"))
        assert (outline == np.asarray(make_example(i).outline)).all()
        assert depth.dtype.itemsize >= 2
        assert (depth == np.asarray(made.depth)).all()
    make(tmp_path / "b", "--num_images", "3", "--kind", "conditions")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_conditions_say_where_the_shape_is_and_nothing_of_its_colour() -> None:
    for i in range(50):
        made = make_conditions(i)
        shape = np.asarray(made.mask) > 127
        assert (
            shape == (nearest_color(np.asarray(made.example.image)) == NAMES.index(made.example.color))
        ).mean() > 0.97
        depth = np.asarray(made.depth) / 65535
        near = depth > (GROUND[1] + EDGE) / 2
        assert (near & shape).sum() > 0.85 * (near | shape).sum()  # a row of pixels that are partly covered, at most
        assert depth[near].max() > 0.9
        assert len(np.unique(depth[near])) > 20  # graded
        outline = np.asarray(made.example.outline)
        assert (outline.max(axis=-1) == outline.min(axis=-1)).all()
