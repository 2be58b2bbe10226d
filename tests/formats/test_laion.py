from __future__ import annotations

import base64
import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ppsd.formats import laion, lines
from ppsd.formats.laion import parse_line, read_part, write_part
from ppsd.types import BadRecord, Record
from tests.images import jpeg_bytes, part_line, photographs, write_lines

IMAGE = jpeg_bytes()
CAPTIONS = ["a red circle", "", "  blanks before, one after ", "一只戴帽子的猫", "word " * 10_000, "naïve – “quoted”"]


def records(path: Path, **options: Any) -> list[Record | BadRecord]:
    return [record for _, record in read_part(path, **options)]


def reasons(path: Path, **options: Any) -> list[tuple[int, str]]:
    return [(n, bad.reason if isinstance(bad, BadRecord) else "") for n, bad in read_part(path, **options)]


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, compress: bool) -> None:
    written = [Record(image, caption) for image in (IMAGE, *photographs().values()) for caption in CAPTIONS]
    assert write_part(tmp_path / "part-000001", written, gzip=compress) == len(written)
    assert (tmp_path / "part-000001").read_bytes().startswith(b"\x1f\x8b") == compress
    assert list(read_part(tmp_path / "part-000001")) == list(enumerate(written, start=1))


@pytest.mark.parametrize("compress", [False, True])
def test_same_records_same_bytes(tmp_path: Path, compress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [Record(IMAGE, caption) for caption in CAPTIONS]
    write_part(tmp_path / "first.gz", written, gzip=compress)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_part(tmp_path / "second", iter(written), gzip=compress)
    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second").read_bytes()


def test_line_breaks_and_tabs_in_a_caption_become_one_space(tmp_path: Path) -> None:
    write_part(tmp_path / "part", [Record(IMAGE, "\ta\t\r\nb\nc\u2028d\x0be\r")])
    assert records(tmp_path / "part") == [Record(IMAGE, " a b c\u2028d\x0be ")]


def test_record_without_image_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without an image: caption 'cat'"):
        write_part(tmp_path / "part", [Record(IMAGE, "dog"), Record(b"", "cat")])
    assert os.listdir(tmp_path) == []


def test_record_longer_than_the_reader_takes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer than a line may be: caption 'cat', image of 50331648 bytes"):
        write_part(tmp_path / "part", [Record(bytes(48 * 2**20), "cat")])


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "plain.gz", [part_line("a", IMAGE)])
    write_lines(tmp_path / "packed", [part_line("b", IMAGE)], compress=True)
    assert [records(tmp_path / name)[0].caption for name in ("plain.gz", "packed")] == ["a", "b"]


def test_further_columns_and_crlf_do_not_matter(tmp_path: Path) -> None:
    line = part_line("cat ", IMAGE).rstrip(b"\n") + b"\thttp://x/\t\xff\xff\r\n"
    last = part_line("", IMAGE).rstrip(b"\n")
    assert records(write_lines(tmp_path / "part", [line, last])) == [Record(IMAGE, "cat "), Record(IMAGE, "")]


def test_gb18030_captions(tmp_path: Path) -> None:
    text = "一个红色的圆形 on 蓝色背景 𠮷"
    part = write_lines(tmp_path / "part", [part_line(text.encode(codec), IMAGE) for codec in ("utf-8", "gb18030")])
    assert [record.caption for record in records(part)] == [text, text]


def aes_line(row: object, columns: int = 6) -> bytes:
    text = row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()
    return b"\t".join([b"0", b"http://x/", text, b"640", b"480", base64.b64encode(IMAGE)][:columns])


def test_laion_aes_captions() -> None:
    for dialect in ("auto", "laion_aes"):
        assert parse_line(aes_line({"caption_en": "a", "blip_caption_en": "b"}), dialect) == Record(IMAGE, "a")
        assert parse_line(aes_line({"blip_caption_en": "b"}), dialect) == Record(IMAGE, "b")
        assert parse_line(aes_line({"caption_en": "", "blip_caption_en": "b"}), dialect) == Record(IMAGE, "")
        assert parse_line(aes_line({"caption_en": "猫"}) + b"\tmore", dialect) == Record(IMAGE, "猫")


def test_laion400m_with_six_columns_is_not_taken_for_laion_aes() -> None:
    line = part_line("{cat}", IMAGE).rstrip(b"\n") + b"\t1\t2\t3\t4"
    assert parse_line(line) == Record(IMAGE, "{cat}")


@pytest.mark.parametrize(
    ("line", "dialect", "reason"),
    [
        (b"just one column", "auto", laion.TOO_FEW_COLUMNS),
        (b"", "auto", laion.TOO_FEW_COLUMNS),
        (b"caption\tNONE", "laion400m", laion.TOO_FEW_COLUMNS),
        (part_line("a", IMAGE).strip(), "laion_aes", laion.TOO_FEW_COLUMNS),
        (aes_line({"caption_en": "a"}, columns=5), "auto", laion.TOO_FEW_COLUMNS),
        (b"caption\tNONE\tnot base64!", "auto", laion.BAD_BASE64),
        (b"caption\tNONE\t" + base64.b64encode(IMAGE)[:-3], "auto", laion.BAD_BASE64),
        (b"caption\tNONE\t " + base64.b64encode(IMAGE), "auto", laion.BAD_BASE64),
        (b"caption\tNONE\t\xe4\xb8\x80", "auto", laion.BAD_BASE64),
        (aes_line({"caption_en": "a"}), "laion400m", laion.BAD_BASE64),
        (b"caption\tNONE\t", "auto", laion.EMPTY_IMAGE),
        (b"\xff\xff\xff\tNONE\tAAAA", "auto", lines.NOT_TEXT),
        (aes_line(b'{"caption_en": "\\ud800"}'), "auto", lines.NOT_TEXT),
        (aes_line(b'{"caption_en": '), "auto", lines.BAD_JSON),
        (aes_line(b"[" * 100_000), "laion_aes", lines.BAD_JSON),
        (aes_line(b"[1]"), "laion_aes", lines.BAD_JSON),
        (aes_line({"title": "a"}), "auto", lines.NO_CAPTION),
        (aes_line({"caption_en": 3}), "auto", lines.NO_CAPTION),
    ],
)
def test_bad_line_is_a_value(line: bytes, dialect: str, reason: str) -> None:
    bad = parse_line(line, dialect)
    assert isinstance(bad, BadRecord)
    assert bad.reason == reason
    assert 0 < len(bad.detail) < 400
    assert "\n" not in bad.detail


def test_bad_lines_do_not_stop_the_part(tmp_path: Path) -> None:
    part = write_lines(tmp_path / "part", [b"one column\n", part_line("a", IMAGE), b"\n", part_line("b", IMAGE)])
    expected = [(1, laion.TOO_FEW_COLUMNS), (2, ""), (3, laion.TOO_FEW_COLUMNS), (4, "")]
    assert reasons(part) == expected


def test_base64_of_a_text_file_is_left_to_the_decoder(tmp_path: Path) -> None:
    assert records(write_lines(tmp_path / "part", [part_line("a", b"hello")])) == [Record(b"hello", "a")]


@pytest.mark.parametrize("compress", [False, True])
def test_start_every_and_offset_choose_lines(tmp_path: Path, compress: bool) -> None:
    part = write_lines(tmp_path / "part", [part_line(str(n), IMAGE) for n in range(1, 12)], compress)
    assert [n for n, _ in read_part(part, start=7)] == [8, 9, 10, 11]
    assert [n for n, _ in read_part(part, start=11)] == []
    assert [n for n, _ in read_part(part, start=4, every=3, offset=1)] == [5, 8, 11]
    dealt = [list(read_part(part, every=4, offset=offset)) for offset in range(4)]
    assert sorted(n for lane in dealt for n, _ in lane) == list(range(1, 12))
    assert all(record.caption == str(n) for lane in dealt for n, record in lane)


def test_lines_passed_over_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = write_lines(tmp_path / "part", [part_line(str(n), IMAGE) for n in range(10)])
    calls = []
    decode = base64.b64decode
    monkeypatch.setattr(base64, "b64decode", lambda *args, **options: calls.append(1) or decode(*args, **options))
    assert len(list(read_part(part, start=4, every=2))) == 3
    assert len(calls) == 3


def test_gzip_truncated_in_the_middle_ends_with_one_bad_record(tmp_path: Path) -> None:
    part = write_lines(tmp_path / "part.gz", [part_line(str(n), jpeg_bytes(seed=n)) for n in range(100)], compress=True)
    data = part.read_bytes()
    part.write_bytes(data[: len(data) // 2])
    found = reasons(part)
    assert 20 < len(found) < 80
    assert [reason for _, reason in found[:-1]] == [""] * (len(found) - 1)
    assert found[-1] == (len(found), laion.TRUNCATED_GZIP)
    assert next(read_part(part, start=90))[1].reason == laion.TRUNCATED_GZIP


def test_gzip_damaged_in_the_middle_ends_with_one_bad_record(tmp_path: Path) -> None:
    part = write_lines(tmp_path / "part.gz", [part_line(str(n), jpeg_bytes(seed=n)) for n in range(100)], compress=True)
    data = bytearray(part.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    part.write_bytes(data)
    bad = [(n, reason) for n, reason in reasons(part) if reason]
    assert bad[-1][1] == laion.CORRUPT_GZIP
    assert bad[-1][0] == len(reasons(part))


@pytest.mark.parametrize("name", ["missing", "folder", "part/below-a-file"])
def test_part_that_cannot_be_opened_is_one_bad_record(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "part").touch()
    assert reasons(tmp_path / name) == [(1, laion.UNREADABLE_PART)]


@pytest.mark.parametrize("data", [b"", gzip.compress(b"", mtime=0)])
def test_empty_part_is_reported(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "part").write_bytes(data)
    assert reasons(tmp_path / "part") == [(1, laion.EMPTY_PART)]


@pytest.mark.parametrize("compress", [False, True])
def test_line_over_the_bound(tmp_path: Path, compress: bool) -> None:
    at_bound = part_line("a" * 100, IMAGE)
    over = part_line("a" * 101, IMAGE)
    part = write_lines(tmp_path / "part", [at_bound, over, at_bound, b"x" * 3_000_000], compress)
    bound = len(at_bound)
    expected = [(1, ""), (2, lines.LINE_TOO_LONG), (3, ""), (4, lines.LINE_TOO_LONG)]
    assert reasons(part, max_line_bytes=bound) == expected


def test_line_of_200_megabytes_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    with open(tmp_path / "part", "wb") as file:
        file.write(part_line("before", IMAGE))
        for _ in range(200):
            file.write(b"A" * 2**20)
        file.write(b"\n" + part_line("after", IMAGE))
    tracemalloc.start()
    found = reasons(tmp_path / "part", max_line_bytes=2**22)
    bounded = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert reasons(tmp_path / "part") == found == [(1, ""), (2, lines.LINE_TOO_LONG), (3, "")]
    default = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bounded < 20 * 2**20
    assert default < 150 * 2**20


def test_unknown_dialect_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dialect 'laion5b': expected one of auto, laion400m, laion_aes"):
        read_part(tmp_path / "part", dialect="laion5b")
