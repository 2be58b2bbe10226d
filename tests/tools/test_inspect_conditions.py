"""tools/inspect_data.py looks at conditions: what of them cannot be used, and pictures of both."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsd.data.inspection.tiles import shown_of
from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import write_part
from ppsd.formats.parts import read_any
from ppsd.types import Record, Sample
from tests.data.scenes import disagreement, mask_of, png, scene, scene_record
from tests.images import write_lists
from tools import inspect_data

COLUMNS = ("conditioning_image", "mask", "depth")


@pytest.fixture
def file_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Six records with all conditions, and five with something wrong about one of them."""
    monkeypatch.chdir(tmp_path)
    good = [scene_record(seed, 2.0, COLUMNS) for seed in range(6)]
    first = dict(good[0].meta)
    without = {key: value for key, value in first.items() if key != "conditioning_image"}
    wrong = [
        without,
        {**first, "conditioning_image": b"no image"},
        {**first, "conditioning_image": png(mask_of(scene(90, 90)))},
        {**first, "mask": png(Image.new("L", (120, 90)))},
        {**first, "depth": png(scene())[:100]},
    ]
    write_part(tmp_path / "part-000001", good + [replace(good[0], meta=meta) for meta in wrong])
    return str(write_lists(tmp_path, {"set": [tmp_path / "part-000001"]}))


def inspect(file_list: str, *flags: str) -> int:
    argv = ["--file_list", file_list, "--resolution", "64", "--num_workers", "0", "--disable_tqdm", *flags]
    return inspect_data.main(argv)


@pytest.mark.parametrize(
    ("flags", "usable", "reasons"),
    [
        ((), 11, ()),
        (
            ("--conditioning_image_column",),
            8,
            ("no conditioning image", "conditioning image: not an image", "conditioning image: other shape than the"),
        ),
        (("--mask_column",), 10, ("mask: empty",)),
        (("--depth_column", "depth"), 10, ("depth map: corrupt image",)),
        (("--conditioning_image_column", "depth"), 10, ("conditioning image: corrupt image",)),
        (("--conditioning_image_column", "--mask_column", "--depth_column"), 6, ("mask: empty", "depth map: corrupt")),
    ],
)
def test_conditions_that_are_asked_for_are_looked_at(
    file_list: str, flags: tuple[str, ...], usable: int, reasons: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(file_list, *flags) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^usable records +{usable} ", printed, flags=re.MULTILINE)
    for reason in reasons:
        assert re.search(rf"^ +1  {reason}", printed, flags=re.MULTILINE), reason


def test_a_column_that_no_record_has_stops_training(file_list: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(file_list, "--conditioning_image_column", "hint") == 1
    assert "nothing under 'hint'" in capsys.readouterr().out


def test_the_page_shows_conditions_below_their_pictures(file_list: str) -> None:
    assert inspect(file_list, "--conditioning_image_column", "--mask_column", "--depth_column") == 0
    shown = re.findall(r'base64,([^"]+)">', Path("inspection.html").read_text(encoding="utf-8"))
    assert len(shown) == 6
    for text in shown:
        tile = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).transpose(2, 0, 1)
        assert tile.shape == (3, 4 * 64, 64)
        for below in range(1, 4):
            assert disagreement(tile[:, :64], tile[:, 64 * below : 64 * (below + 1)], margin=2) < 0.02


def test_fix_leaves_out_what_conditions_make_unusable(file_list: str) -> None:
    assert inspect(file_list, "--conditioning_image_column", "--mask_column", "--depth_column", "--fix", "clean") == 0
    (source,) = read_file_list("clean/filelist/clean.filelist.list")
    found = [record for part in source.parts for _, record in read_any(part, more_images=COLUMNS)]
    assert len(found) == 6
    assert all(isinstance(record, Record) and set(record.meta) == set(COLUMNS) for record in found)


def test_a_sample_without_conditions_is_its_picture() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    sample = Sample(pixels=pixels, input_ids=np.zeros(1, np.int64), seed=0, extras={"hidden": np.zeros((2, 2))})
    assert shown_of(sample) is pixels
    both = replace(sample, extras={"depth": np.full((1, 4, 4), 0.5, np.float32)})
    assert np.array_equal(shown_of(both)[:, 4:], np.full((3, 4, 4), 128))
