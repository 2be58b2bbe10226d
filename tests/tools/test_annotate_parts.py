"""tools/annotate.py on parts: formats, lists, what is resumed, and what training reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data.annotating import pictures
from ppsd.data.annotators.landmarks import draw_landmarks
from ppsd.data.config import StreamConfig
from ppsd.data.decode import decode_shrunk
from ppsd.data.loader import StreamLoader
from ppsd.formats import stamp
from ppsd.formats.filelist import read_file_list
from ppsd.formats.image_folder_writer import write_folder
from ppsd.formats.laion import write_part
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.part_kind import part_kind
from ppsd.formats.parts import read_any
from ppsd.formats.webdataset import write_tar
from ppsd.types import BadRecord, Record
from tests.data.scenes import disagreement, png, scene, scene_record
from tests.data.streams import take
from tests.data.test_annotator_points import face
from tests.images import part_line, write_lines, write_lists
from tests.tiny import tiny_tokenizer
from tests.tools.test_annotate import Counted, dies_after, files, run

WRITERS: dict[str, Callable[[Path, Any], Any]] = {
    "part-000001": write_part,
    "part-000001.gz": lambda path, records: write_part(path, records, gzip=True),
    "0.tar": write_tar,
    "0.tar.gz": lambda path, records: write_tar(path, records, gzip=True),
    "0.parquet": write_parquet,
    "folder": write_folder,
}
COLUMN = "conditioning_image"
LIST = "out/filelist/set.filelist.list"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scenes(count: int, first: int = 0) -> list[Record]:
    """With a caption, a number and a mask each, but no conditioning image."""
    records = [scene_record(seed, 1.0, ("mask",)) for seed in range(first, first + count)]
    return [replace(record, meta={**record.meta, "number": n}) for n, record in enumerate(records)]


def written(file_list: str = LIST, column: str = COLUMN) -> list[Record]:
    parts = [part for source in read_file_list(file_list) for part in source.parts]
    found = [record for part in parts for _, record in read_any(part, more_images=("mask", column))]
    assert all(isinstance(record, Record) for record in found)
    return [record for record in found if isinstance(record, Record)]


def pixels_of(data: Any) -> np.ndarray:
    decoded = decode_shrunk(data.read_bytes() if isinstance(data, Path) else data)
    assert not isinstance(decoded, BadRecord), decoded
    return decoded.array.transpose(2, 0, 1).copy()


@pytest.mark.parametrize("name", WRITERS)
def test_each_format_stays_what_it_is_and_is_trained_on(here: Path, name: str) -> None:
    records = scenes(5)
    WRITERS[name](here / name, records)
    file_list = write_lists(here, {"set": [here / name]})
    assert run(source=str(file_list)) == 0
    (source,) = read_file_list(LIST)
    (part,) = source.parts
    assert part_kind(part) == part_kind(here / name)
    found = written()
    for record, other in zip(found, records):
        assert (record.image, record.caption, record.meta["number"]) == (
            other.image,
            other.caption,
            other.meta["number"],
        )
        assert np.array_equal(pixels_of(record.meta["mask"]), pixels_of(other.meta["mask"]))
        assert disagreement(pixels_of(record.image), pixels_of(record.meta[COLUMN]), 0) < 1e-9
    assert len(found) == 5
    config = StreamConfig(LIST, conditions=("conditioning", "mask"), resolution=64, num_lanes=1, random_flip=True)
    (batch,) = take(StreamLoader(config, tiny_tokenizer(), batch_size=5), 1)
    for pixels, condition, mask in zip(*(batch[key].numpy() for key in ("pixels", "conditioning", "mask"))):
        assert disagreement(pixels, condition) < 0.004
        assert disagreement(pixels, mask) < 0.004


def test_lists_keep_sources_weights_order_and_repeats(here: Path) -> None:
    parts = [here / f"part-{n}" for n in range(4)]
    for n, part in enumerate(parts):
        write_part(part, scenes(2, 10 * n))
    sources = {"a": [parts[0], parts[1], parts[0]], "b": [parts[3], parts[2], parts[1]]}
    file_list = write_lists(here, sources, [3, 0.5])
    assert run("--num_workers", "2", source=str(file_list)) == 0
    found = read_file_list("out/filelist/a.filelist.list")
    assert [source.weight for source in found] == [3, 0.5]
    names = [[Path(part).name for part in source.parts] for source in found]
    assert names == [
        ["part-000001", "part-000002", "part-000001"],
        ["part-000003", "part-000004", "part-000002"],
    ]
    captions = [record.caption for record in written("out/filelist/a.filelist.list")]
    assert captions[:2] == captions[4:6] == ["scene 0", "scene 1"]
    assert captions[6:8] == ["scene 30", "scene 31"]


def test_a_folder_a_part_and_a_folder_that_a_tool_has_written(here: Path) -> None:
    (here / "parts").mkdir()
    for n in range(2):
        write_tar(here / f"parts/{n}.tar", scenes(2, n))
    for source, output, count in (("parts", "out1", 4), ("parts/1.tar", "out2", 2), ("out1", "out3", 4)):
        assert run(source=source, output=output, annotator="canny") == 0
        assert len(written(f"{output}/filelist/custom_dataset.filelist.list")) == count
    assert run("--output_name", "mine", source="parts", output="out4") == 0
    assert len(written("out4/filelist/mine.filelist.list")) == 4
    assert Path("out4/annotated/mine/part-000002.tar").is_file()


def test_what_cannot_be_used_is_counted_by_part_and_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [record.image for record in scenes(3)]
    lines = [part_line("a", images[0]), b"no columns\n", part_line("b", images[1][:600]), part_line("c", images[2])]
    write_lines(here / "part-000001", lines)
    write_lines(here / "part-000002", [part_line("x", b"no image")])
    file_list = write_lists(here, {"set": [here / "part-000001", here / "part-000002", here / "gone"]})
    assert run(source=str(file_list)) == 0
    printed = capsys.readouterr().out
    assert "2 samples used, 4 records skipped" in printed
    for reason, where in (
        ("too few columns", "part-000001:2"),
        ("corrupt image", "part-000001:3"),
        ("not an image", "part-000002:1"),
        ("unreadable part", "gone:1"),
    ):
        assert f"  1 {reason}, e.g.\n    {here / where} " in printed
    assert [record.caption for record in written()] == ["a", "c"]
    (source,) = read_file_list(LIST)
    assert [Path(part).name for part in source.parts] == ["part-000001"]
    assert run(source=str(file_list)) == 0
    again = capsys.readouterr().out
    assert "3 parts were there already" in again
    assert "2 samples used, 4 records skipped" in again


def test_nothing_that_can_be_used_is_an_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_list = write_lists(here, {"set": [here / "gone"]})
    assert run(source=str(file_list)) == 1
    assert "nothing was written: no usable image" in capsys.readouterr().err
    assert not Path(LIST).exists()


@pytest.mark.parametrize("name", ["part-000001.gz", "0.parquet", "folder"])
@pytest.mark.parametrize("after", [0, 2, 4, 7])
def test_killed_and_started_again(here: Path, name: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 3: whole ones are not made again, one that was begun is, and no list names half of them before."""
    parts = [here / f"{n}{name}" for n in range(3)]
    for n, part in enumerate(parts):
        WRITERS[name](part, scenes(3, 3 * n))
    file_list = str(write_lists(here, {"set": parts}))
    assert run(source=file_list, output="whole") == 0
    dies_after(after, monkeypatch, lambda: run(source=file_list))
    assert not Path(LIST).exists()
    whole_before = {key: value for key, value in files("out/annotated/set").items() if not key.startswith(".")}
    assert len({Path(key).parts[0] for key in whole_before}) == after // 3
    counted = Counted(monkeypatch)
    assert run(source=file_list) == 0
    assert counted.count == 9 - after // 3 * 3
    found, expected = files("out"), files("whole")
    assert found == expected
    assert run(source=file_list) == 0
    assert counted.count == 9 - after // 3 * 3


def test_a_note_without_its_part_does_not_count(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(here / "part-000001", scenes(3))
    write_part(here / "part-000002", scenes(3, 3))
    file_list = str(write_lists(here, {"set": [here / "part-000001", here / "part-000002"]}))
    assert run(source=file_list) == 0
    expected = files("out")
    first, second = (Path(f"out/annotated/set/part-00000{n}") for n in (1, 2))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-5])
    counted = Counted(monkeypatch)
    assert run(source=file_list) == 0
    assert counted.count == 6
    assert files("out") == expected


def test_what_has_changed_is_made_anew_and_lists_go_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(2):
        write_part(here / f"part-{n}", scenes(3, 3 * n))
    file_list = str(write_lists(here, {"set": [here / "part-0", here / "part-1"]}))
    assert run(source=file_list) == 0
    write_part(here / "part-1", scenes(2, 40))
    dies_after(0, monkeypatch, lambda: run(source=file_list))
    assert not Path(LIST).exists()
    counted = Counted(monkeypatch)
    assert run(source=file_list) == 0
    assert counted.count == 2
    assert len(written()) == 5
    for flags, annotator in (((), "canny"), (("--resolution", "32"), "canny"), (("--column", "hint"), "canny")):
        counted.count = 0
        assert run(*flags, source=file_list, annotator=annotator) == 0
        assert counted.count == 5
    assert set(written(column="hint")[0].meta) == {"hint", "mask", "number"}


def test_a_network_whose_weights_change_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_bytes(b"1")
    before = pictures.Settings("depth", str(tmp_path / "model"))
    assert before.digest == pictures.Settings("depth", str(tmp_path / "model")).digest
    (tmp_path / "model/weights").write_bytes(b"12")
    assert before.digest != pictures.Settings("depth", str(tmp_path / "model")).digest
    assert stamp.part_stamp(str(tmp_path / "model")) is not None


def test_workers_write_the_same_files(here: Path) -> None:
    for n in range(3):
        write_part(here / f"part-{n}", scenes(2, 2 * n))
    file_list = str(write_lists(here, {"set": [here / f"part-{n}" for n in range(3)]}))
    assert run("--num_workers", "0", source=file_list, annotator="shuffle") == 0
    assert run("--num_workers", "2", source=file_list, output="out2", annotator="shuffle") == 0
    assert files("out") == files("out2")


def test_a_column_that_is_there_is_kept_unless_it_is_overwritten(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = scenes(3)
    own = png(scene(seed=50))
    records[1] = replace(records[1], meta={**records[1].meta, COLUMN: own})
    write_part(here / "part-000001", records)
    file_list = str(write_lists(here, {"set": [here / "part-000001"]}))
    assert run(source=file_list) == 0
    assert "1 of them had the column already, which was kept" in capsys.readouterr().out
    assert [record.meta[COLUMN] == own for record in written()] == [False, True, False]
    assert run("--overwrite", source=file_list) == 0
    assert [record.meta[COLUMN] == own for record in written()] == [False, False, False]


def test_columns_of_image_and_caption_and_the_data_format(here: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    image = scenes(1)[0].image
    parquet.write_table(pa.table({"photo": [image], "words": ["ten"], "text": ["x"]}), here / "0.parquet")
    assert run("--image_column", "photo", "--caption_column", "words", source="0.parquet") == 0
    (record,) = written("out/filelist/custom_dataset.filelist.list")
    assert (record.caption, record.image) == ("ten", image)
    line = b"\t".join([b"0", b"u", json.dumps({"caption_en": "aes"}).encode(), b"", b"", part_line("", image)[6:]])
    write_lines(here / "aes", [line])
    assert run("--data_format", "laion_aes", source="aes", output="out2") == 0
    (record,) = written("out2/filelist/custom_dataset.filelist.list")
    assert (record.caption, record.image) == ("aes", image)
    assert run("--data_format", "laion400m", source="aes", output="out3") == 1


def test_landmarks_of_a_column_of_numbers(here: Path) -> None:
    points = face() * (120 / 512, 90 / 512)
    records = [replace(record, meta={"points": points.tolist()}) for record in scenes(2)]
    records += [replace(records[0], meta={"points": json.dumps(points.tolist())}), replace(records[0], meta={})]
    for name in ("part-000001", "0.tar", "0.parquet"):
        WRITERS[name](here / name, records)
        assert run("--points_column", "points", source=name, output=f"out-{name}", annotator="landmarks") == 0
        found = written(f"out-{name}/filelist/custom_dataset.filelist.list")
        assert len(found) == 3
        for record in found:
            assert np.array_equal(pixels_of(record.meta[COLUMN]), draw_landmarks(points, (120, 90)))


def test_the_sheet_shows_all_parts(here: Path) -> None:
    for n in range(4):
        write_part(here / f"part-{n}", scenes(5, 5 * n))
    file_list = str(write_lists(here, {"set": [here / f"part-{n}" for n in range(4)]}))
    assert run("--num_shown", "8", source=file_list) == 0
    sheet = pixels_of(Path("out/contact_sheet.conditioning_image.png"))
    assert sheet.shape == (3, 416, 8 * 200 + 8)
    shown = [sheet[:, 8 + 24 : 8 + 168, 8 + 200 * n : 200 + 200 * n] for n in range(8)]
    for n, picture in enumerate(shown):
        expected = np.asarray(scene(seed=5 * (n // 2) + n % 2).resize((192, 144))).transpose(2, 0, 1)
        assert (np.abs(picture.astype(int) - expected) > 60).mean() < 0.02


def test_the_output_is_not_the_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_part(here / "part-000001", scenes(2))
    file_list = str(write_lists(here, {"set": [here / "part-000001"]}))
    assert run(source=file_list) == 0
    before = files("out")
    assert run(source=LIST) == 1
    assert "would lie in it or replace it" in capsys.readouterr().err
    write_folder(here / "images", scenes(2))
    assert run(source="images") == 1
    assert "--output_path out: has annotated parts in it, these are images" in capsys.readouterr().err
    assert files("out") == before
    assert os.path.isfile(LIST)


def test_kinds_of_parts(here: Path) -> None:
    for name, write in WRITERS.items():
        write(here / name, scenes(1))
    (here / "named.tar").write_bytes((here / "part-000001").read_bytes())
    found = {name: tuple(part_kind(here / name)) for name in (*WRITERS, "named.tar", "gone")}
    assert found == {
        "part-000001": ("laion400m", "", False),
        "part-000001.gz": ("laion400m", ".gz", True),
        "0.tar": ("webdataset", ".tar", False),
        "0.tar.gz": ("webdataset", ".tar.gz", True),
        "0.parquet": ("parquet", ".parquet", False),
        "folder": ("image_folder", "", False),
        "named.tar": ("webdataset", ".tar", False),
        "gone": ("laion400m", "", False),
    }
    assert part_kind(here / "0.tar", "laion_aes").data_format == "laion400m"
    assert part_kind(here / "0.parquet", "parquet").data_format == "parquet"
