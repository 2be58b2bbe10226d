from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.inspection import check
from ppsd.data.inspection.check import QUICK_RECORDS, STUBBORN_RECORDS, check_data
from ppsd.data.source import RecordSource
from ppsd.types import BadRecord, Record
from tests.data.numbered import numbered_source
from tests.images import jpeg_bytes, part_line, write_lines, write_lists, write_parts

GOOD = jpeg_bytes(80, 80)
Read = Any


class ManyParts(Sequence[str]):
    """Five million part names, of which only single ones may be asked for."""

    def __len__(self) -> int:
        return 5_000_000

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, int)
        return f"part-{index}"

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the parts must not be gone through")


class Reads:
    """A reader of parts of `records` records, which remembers what it read."""

    def __init__(self, record: Record | BadRecord, records: int = 1000) -> None:
        self.record, self.records = record, records
        self.parts: list[str] = []
        self.count = 0

    def __call__(self, path: str, start: int = 0, *, every: int = 1, offset: int = 0) -> Iterator[tuple[int, Any]]:
        self.parts.append(path)
        for number in range(1, self.records + 1):
            self.count += 1
            yield number, self.record


def use_sources(monkeypatch: pytest.MonkeyPatch, *sources: RecordSource) -> None:
    monkeypatch.setattr(check, "open_sources", lambda config, seed: list(sources))


def config_of(file_list: Path | str = "x.filelist.list", **flags: Any) -> StreamConfig:
    return StreamConfig(str(file_list), resolution=64, **flags)


def test_quick_check_reads_a_little_of_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = [Reads(Record(GOOD, "a cat")), Reads(Record(GOOD, "a dog"))]
    use_sources(monkeypatch, *(RecordSource(f"s{i}", ManyParts(), read) for i, read in enumerate(reads)))
    result = check_data(config_of(), None)
    assert result.summary.records == QUICK_RECORDS == sum(read.count for read in reads)
    assert [len(set(read.parts)) for read in reads] == [13, 12]
    assert result.warnings == []
    assert result.lines()[0].startswith("quick check of the data: 200 records of 25 parts in ")
    again = [Reads(Record(GOOD, "a cat")), Reads(Record(GOOD, "a dog"))]
    use_sources(monkeypatch, *(RecordSource(f"s{i}", ManyParts(), read) for i, read in enumerate(again)))
    check_data(config_of(), None)
    assert [read.parts for read in again] == [read.parts for read in reads], "the choice depends on the seed alone"
    check_data(config_of(), None, seed=1)
    assert again[0].parts[13:] != reads[0].parts


def test_source_that_is_hard_to_use_gets_more_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, bad = Reads(Record(GOOD, "")), Reads(BadRecord("filter: width>9", "width = 1"), 10)
    use_sources(monkeypatch, RecordSource("fine", ManyParts(), fine), RecordSource("bad", ManyParts(), bad))
    with pytest.raises(ValueError, match="bad: not one usable record among 2000 records of 250 parts") as caught:
        check_data(config_of(), None)
    assert bad.count == STUBBORN_RECORDS
    assert fine.count < QUICK_RECORDS
    text = str(caught.value)
    assert text.startswith("--file_list x.filelist.list: training cannot start: ")
    assert "2000 filter: width>9, e.g. part-" in text
    assert "width = 1" in text
    assert "--check_data off" in text
    bad.record = Record(GOOD, "")
    check_data(config_of(), None)


def test_parts_that_are_all_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Reads(BadRecord("unreadable part", "No such file or directory"), 1)
    use_sources(monkeypatch, RecordSource("gone", ManyParts(), gone))
    with pytest.raises(ValueError, match="among 0 records of 200 parts, 200 of which cannot be read"):
        check_data(config_of(), None)
    assert gone.count == 200


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(check.time, "monotonic", lambda: next(clock) * 0.5)
    reads = Reads(Record(GOOD, ""), 1)
    use_sources(monkeypatch, RecordSource("slow", ManyParts(), reads))
    result = check_data(config_of(), None)
    assert 2 <= result.summary.records <= 5


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_what_is_wrong_is_in_the_log(tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = [part_line("x", GOOD)] * 6 + [part_line("x", b"nothing")] * 4
    parts = [write_lines(tmp_path / "part-1", lines), tmp_path / "part-2"]
    with caplog.at_level(logging.INFO):
        result = check_data(config_of(write_lists(tmp_path, {"a": parts}), filter="caption_length > 0"), None, mode)
    first, *warned = result.lines()
    assert first.startswith(f"{mode} check of the data: 10 records of 2 parts in ")
    assert first.partition(" s, ")[2].startswith("40.0 % not used (4 not an image, e.g. ")
    assert [line.split(":")[0] for line in warned] == [
        "40.0 % of the records cannot be used",
        "50.0 % of the parts are missing or damaged",
    ]
    assert f"{parts[0]}:7 7 bytes" in warned[0]


def test_full_check_sees_every_record(tmp_path: Path) -> None:
    file_list = write_parts(tmp_path, [300, 3])
    assert check_data(config_of(file_list), None, "quick").summary.records < 303
    assert check_data(config_of(file_list), None, "full").summary.records == 303
    assert check_data(config_of(file_list), None, "full", num_workers=1).summary.records == 303


class LetterTokenizer:
    """A token a letter. Like tokenizers of paddlenlp it holds a module, which plain pickle refuses."""

    eos_token_id = bos_token_id = pad_token_id = 0

    def __init__(self) -> None:
        self.re = re

    def __call__(self, text: str, max_length: int, **how: Any) -> dict[str, list[int]]:
        ids = [0, *map(ord, self.re.sub(r"\s", "", text))][: max_length - 1]
        return {"input_ids": [-1, *ids[1:], *[0] * (max_length - len(ids))]}


def test_full_check_in_workers_takes_a_tokenizer(tmp_path: Path) -> None:
    summary = check_data(config_of(write_parts(tmp_path, [3])), LetterTokenizer(), "full", num_workers=1).summary
    assert summary.tally.used == 3
    assert summary.rows.all()["tokens"].tolist() == [7, 7, 7]  # of "set 0 0"


def test_unknown_mode_and_filter_are_refused(tmp_path: Path) -> None:
    file_list = write_parts(tmp_path, [3])
    with pytest.raises(ValueError, match="--check_data 'fast' is not one of quick, full, off"):
        check_data(config_of(file_list), None, "fast")
    with pytest.raises(ValueError, match="--filter 'width >'"):
        check_data(config_of(file_list, filter="width >"), None)
    with pytest.raises(ValueError, match=r"3 filter: no widht.*has a column widht; the nearest name is width\. tools/"):
        check_data(config_of(file_list, filter="widht > 3"), None)


def lines_with(meta: str, count: int) -> list[bytes]:
    return [part_line("x", GOOD)[:-1] + f"\t{meta}\n".encode()] * count


def test_column_that_no_record_has_is_explained(tmp_path: Path) -> None:
    lines = [*lines_with('{"AESTHETIC_SCORE": 5, "b c": 1}', 2), *lines_with("{}", 2)]
    file_list = write_lists(tmp_path, {"a": [write_lines(tmp_path / "part-1", lines)]})
    beginning = "--filter: no record that was looked at has a column "

    def hints(filter: str) -> list[str]:
        found = check_data(config_of(file_list, filter=filter), None).warnings
        return [line[len(beginning) :] for line in found if line.startswith(beginning)]

    assert hints("AESTHETIC_SCORE > 4") == [], "some have it"
    assert hints("AESTHETIC_SCORE == None or aesthetic_score > 4") == [
        "aesthetic_score; the nearest name is AESTHETIC_SCORE"
    ]
    assert hints("AESTHETIC_SCORE != None or NSFW == 'NO'") == ["NSFW; their columns are AESTHETIC_SCORE"]
    assert hints("AESTHETIC_SCORE == None or caption_lenght > 3") == [
        "caption_lenght; the nearest name is caption_length"
    ]
    assert hints("width > 1") == []


def test_reasons_are_those_of_the_source(tmp_path: Path) -> None:
    noise = [part_line("x", b"nothing")]
    mixed = write_lines(tmp_path / "part-1", [part_line("x", GOOD), *noise * 7])
    small = write_lines(tmp_path / "part-2", [part_line("x", jpeg_bytes(8, 8))] * 3)
    file_list = write_lists(tmp_path, {"mixed": [mixed], "small": [small]})
    with pytest.raises(ValueError, match=r"small: .* among 3 records .* \(3 too small, e\.g\. ") as caught:
        check_data(config_of(file_list), None)
    assert "not an image" not in str(caught.value)


def _folder(tmp_path: Path, good: int, bad: int = 0, **files: bytes) -> StreamConfig:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(good + bad):
        (folder / f"{number}.jpg").write_bytes(jpeg_bytes(80, 90, seed=number) if number < good else b"nothing")
        (folder / f"{number}.txt").write_text(f"caption {number}")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return StreamConfig(train_data_dir=str(folder), resolution=64)


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_a_folder_is_looked_at_image_by_image(tmp_path: Path, mode: str) -> None:
    result = check_data(_folder(tmp_path, 4, 2, **{"no_caption.jpg": b"x"}), None, mode)
    first, warned = result.lines()
    folder = tmp_path / "photos"
    assert first.startswith(f"{mode} check of the data: 7 of 7 images in ")
    assert first.partition(" s, ")[2].startswith("42.9 % not used (2 not an image, e.g. ")
    assert f"{folder}/no_caption.jpg no .txt or .caption file beside it" in first
    assert f"{folder}/4.jpg 7 bytes starting with b'nothing'" in first or f"{folder}/5.jpg 7 bytes" in first
    assert warned.startswith("42.9 % of the records cannot be used")


def test_a_quick_check_of_a_large_folder_looks_at_some_images(monkeypatch: pytest.MonkeyPatch) -> None:
    source = numbered_source(5000, record_of=lambda index: Record(GOOD, "x") if index % 2 else BadRecord("bad", "x"))
    result = check_data(config_of(), None, sources=[source])
    assert result.lines()[0].startswith("quick check of the data: 200 of 5000 images in ")
    assert 60 < result.summary.tally.counts["bad"] < 140
    assert result.summary.tally.examples["bad"][0].startswith("record ")


def test_a_folder_without_a_usable_image(tmp_path: Path) -> None:
    config = _folder(tmp_path, 0, 3)
    with pytest.raises(ValueError, match=r"^--train_data_dir .*photos: training cannot start: photos: not one"):
        check_data(config, None)
    nothing = numbered_source(0, name="dogs", bad=[("a.jpg", BadRecord("missing image", "a.jpg"))])
    with pytest.raises(ValueError, match=r"^the data: training cannot start: dogs: .*1 missing image, e.g. a.jpg"):
        check_data(config_of(), None, sources=[nothing])


def test_small_images_of_folders_are_enlarged_those_of_streams_are_not(tmp_path: Path) -> None:
    config = replace(_folder(tmp_path, 4), resolution=128)
    assert check_data(config, None).summary.tally.used == 4
    with pytest.raises(ValueError, match="4 too small"):
        check_data(replace(config, upscale_small=False), None)
    with pytest.raises(ValueError, match="8 too small"):
        check_data(replace(config_of(write_parts(tmp_path, [8], 80, 80)), resolution=128), None)


def test_a_column_that_no_image_of_a_folder_has(tmp_path: Path) -> None:
    config = replace(_folder(tmp_path, 4), filter="score > 3")
    with pytest.raises(ValueError, match=r"(?s)nothing in it can be used.* 4 filter: no score"):
        check_data(config, None)


def test_the_buckets_of_what_was_looked_at_are_shown_for_streams(tmp_path: Path) -> None:
    sides = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
    result = check_data(config_of(write_parts(tmp_path, [8, 4], 90, 60), **sides), None)
    assert result.lines()[0].splitlines()[1:] == [
        "buckets of 12 images checked:",
        "           size       images        share",
        "        80 x 48           12      100.0 %",
    ]
    assert check_data(replace(_folder(tmp_path, 4), **sides), None).table is None
