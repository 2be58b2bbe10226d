from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.inspection.clean import Cleaned, write_clean
from ppsd.data.inspection.job import make_setup
from ppsd.data.inspection.journal import Journal
from ppsd.data.inspection.plan import distinct_parts
from ppsd.data.inspection.run import inspect_all
from ppsd.data.source import RecordSource, open_sources
from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import read_part
from ppsd.formats.layout import Layout
from ppsd.types import LatentRecord, Record
from tests.images import jpeg_bytes, part_line, write_lines, write_lists

GOOD = [jpeg_bytes(80, 80, seed=i) for i in range(5)]
EXTRA = b'\t{"aesthetic":"5.5","captions":["another"]}\n'


@pytest.fixture
def file_list(tmp_path: Path) -> Path:
    """Sources "a b" (a gzip part listed twice, one without a usable record) and "c", of weights 3 and 0.5."""
    first = [part_line("bad", b"x"), part_line("零", GOOD[0])[:-1] + EXTRA, part_line("one", GOOD[1])]
    last = [part_line("copy", GOOD[0]), part_line("two", GOOD[2]), b"\n", part_line("", GOOD[3])]
    parts = [
        write_lines(tmp_path / "a" / "part-000001.gz", first, compress=True),
        write_lines(tmp_path / "a" / "part-000002", [part_line("small", jpeg_bytes(20, 20))]),
        write_lines(tmp_path / "c" / "part-000001", last),
    ]
    return write_lists(tmp_path, {"a b": [parts[0], parts[1], parts[0]], "c": [parts[2]]}, [3, 0.5])


def clean(file_list: Path, out: Path, sources: Sequence[RecordSource] | None = None, **options: Any) -> Cleaned:
    config = StreamConfig(str(file_list), resolution=64)
    journal = Journal(out.with_suffix(".jsonl"), {})
    found = sources or open_sources(config)
    inspect_all(
        found, [distinct_parts(s.parts) for s in found], make_setup(config, None, 0, details=True), journal=journal
    )
    try:
        return write_clean(found, journal, Layout(out, "clean"), **options)
    finally:
        journal.close()


def contents(file_list: Path) -> list[list[list[tuple[int, Record]]]]:
    """Records by source and entry of its list."""
    return [[list(read_part(part)) for part in source.parts] for source in read_file_list(file_list)]  # type: ignore[misc]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_can_be_used_is_written_with_all_it_has(file_list: Path, tmp_path: Path, num_workers: int) -> None:
    counted: list[int] = []
    cleaned = clean(file_list, tmp_path / "out", num_workers=num_workers, on_part=counted.append)
    assert (cleaned.parts, cleaned.records, cleaned.dropped, cleaned.left_out) == (2, 5, 0, [])
    assert counted == [2, 3]
    sources = read_file_list(cleaned.file_list)
    assert [(source.name, source.weight) for source in sources] == [("clean-1-a_b", 3.0), ("clean-2-c", 0.5)]
    names = [[Path(part).name for part in source.parts] for source in sources]
    assert names == [["part-000001.gz"] * 2, ["part-000002"]]
    first, again = contents(cleaned.file_list)[0]
    assert first == again
    assert [(number, record.caption, record.image) for number, record in first] == [
        (1, "零", GOOD[0]),
        (2, "one", GOOD[1]),
    ]
    assert dict(first[0][1].meta) == {"aesthetic": "5.5"}
    assert first[0][1].more_captions == ("another",)
    assert [record.caption for _, record in contents(cleaned.file_list)[1][0]] == ["copy", "two", ""]
    assert Path(sources[0].parts[0]).read_bytes()[:2] == b"\x1f\x8b"
    assert Path(sources[1].parts[0]).read_bytes().startswith(b"copy\t")


def test_clean_data_is_clean_and_can_be_moved(file_list: Path, tmp_path: Path) -> None:
    clean(file_list, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "filelist" / "clean.filelist.list"
    assert clean(moved, tmp_path / "again").records == 5
    assert contents(tmp_path / "again" / "filelist" / "clean.filelist.list") == contents(moved)


def test_of_copies_the_first_is_kept(file_list: Path, tmp_path: Path) -> None:
    cleaned = clean(file_list, tmp_path / "out", drop_duplicates=True)
    assert (cleaned.records, cleaned.dropped) == (4, 1)
    captions = [[[record.caption for _, record in part] for part in source] for source in contents(cleaned.file_list)]
    assert captions == [[["零", "one"]] * 2, [["two", ""]]]


def test_source_without_a_usable_record_is_left_out(file_list: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "c" / "part-000001", [part_line("x", b"nothing")])
    cleaned = clean(file_list, tmp_path / "out")
    assert cleaned.left_out == ["c"]
    assert [(source.name, source.weight) for source in read_file_list(cleaned.file_list)] == [("clean-1-a_b", 3.0)]
    write_lines(tmp_path / "a" / "part-000001.gz", [part_line("x", b"nothing")])
    with pytest.raises(ValueError, match="not one usable record"):
        clean(file_list, tmp_path / "nothing")
    assert not (tmp_path / "nothing" / "filelist" / "clean.filelist.list").exists()


def test_data_set_that_is_there_is_not_overwritten(file_list: Path, tmp_path: Path) -> None:
    cleaned = clean(file_list, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"--fix .*clean\.filelist\.list is there already"):
        clean(file_list, tmp_path / "out")
    assert {path: path.read_bytes() for path in before} == before
    cleaned.file_list.unlink()  # as after a run that was killed
    for path in (tmp_path / "out" / "filelist").iterdir():
        path.unlink()
    assert clean(file_list, tmp_path / "out").records == 5


def test_killed_between_its_lists_it_can_be_run_again(file_list: Path, tmp_path: Path) -> None:
    first = contents(clean(file_list, tmp_path / "out").file_list)
    (tmp_path / "out" / "filelist" / "clean.filelist.list").unlink()
    assert contents(clean(file_list, tmp_path / "out").file_list) == first


def test_part_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    calls = []

    def read(path: str, start: int = 0, *, every: int = 1, offset: int = 0) -> Any:
        calls.append(path)
        yield from ((n, Record(GOOD[n], f"{n}")) for n in range(1, 4 if len(calls) == 1 else 3))

    part = write_lines(tmp_path / "part-1", [b"any"])
    with pytest.raises(ValueError, match=r"part-1:3: was usable when it was inspected"):
        clean(tmp_path / "x.filelist", tmp_path / "out", [RecordSource("a", (str(part),), read)])
    assert list((tmp_path / "out" / "laion400m_format_data").iterdir()) == []


def test_latents_are_refused(tmp_path: Path) -> None:
    def read(path: str, start: int = 0, *, every: int = 1, offset: int = 0) -> Any:
        yield 1, LatentRecord(np.zeros((8, 8, 8), np.float32), "a cat")

    part = write_lines(tmp_path / "part-1", [b"any"])
    with pytest.raises(ValueError, match="part-1: holds latents"):
        clean(tmp_path / "x.filelist", tmp_path / "out", [RecordSource("a", (str(part),), read)])
