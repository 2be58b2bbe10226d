from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import random
import re
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from ppsd.formats import base64_bytes, inflate, laion, lines
from ppsd.formats.base64_bytes import BAD_BASE64, decode_base64
from ppsd.formats.extras import LazyMeta
from ppsd.formats.inflate import inflated
from ppsd.formats.laion import encode_line, parse_line, read_part, write_part
from ppsd.formats.lines import LineReader
from ppsd.types import BadRecord, Record
from tests.images import jpeg_bytes, part_line, photographs, write_lines

IMAGE = jpeg_bytes()
CAPTIONS = ["a red circle", "", "  blanks before, one after ", "一只戴帽子的猫", "word " * 10_000, "naïve – “quoted”"]


LIBRARIES = {"fast": (inflate.LIBRARY, base64_bytes.LIBRARY), "standard": (zlib, base64)}


@pytest.fixture(params=list(LIBRARIES))
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs with the fast libraries and without them."""
    inflating, decoding = LIBRARIES[request.param]
    monkeypatch.setattr(inflate, "LIBRARY", inflating)
    monkeypatch.setattr(base64_bytes, "LIBRARY", decoding)
    return request.param


def test_the_fast_libraries_are_used_where_they_are_installed() -> None:
    assert inflate.LIBRARY.__name__ == "isal.isal_zlib"
    assert base64_bytes.LIBRARY.__name__ == "pybase64"


def records(path: Path, **options: Any) -> list[Record | BadRecord]:
    return [record for _, record in read_part(path, **options)]


def reasons(path: Path, **options: Any) -> list[tuple[int, str]]:
    return [(n, bad.reason if isinstance(bad, BadRecord) else "") for n, bad in read_part(path, **options)]


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, compress: bool, library: str) -> None:
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


def test_crlf_and_a_last_line_without_ending(tmp_path: Path) -> None:
    line = part_line("cat ", IMAGE).rstrip(b"\n") + b"\r\n"
    last = part_line("", IMAGE).rstrip(b"\n")
    assert records(write_lines(tmp_path / "part", [line, last])) == [Record(IMAGE, "cat "), Record(IMAGE, "")]


def extra(*columns: bytes, caption: str = "cat") -> Record:
    record = parse_line(b"\t".join([part_line(caption, IMAGE).rstrip(b"\n"), *columns]))
    assert isinstance(record, Record)
    return record


def test_further_columns_are_meta() -> None:
    assert extra(b"http://x/", b"\xff\xff", b"", b"0.25", b"y" * 1025).meta == {
        "column3": "http://x/",
        "column6": "0.25",
    }
    assert extra(b'{"punsafe": 0.1, "tags": ["a"], "none": null}').meta == {"punsafe": 0.1, "tags": ["a"]}
    assert extra(b'{"punsafe": 0.1}', b"more").meta == {"punsafe": 0.1, "column4": "more"}
    assert extra(b"{cat}").meta == {"column3": "{cat}"}
    assert extra(b"[1, 2]").meta == {"column3": "[1, 2]"}
    assert extra(b"{" + b"[" * 5000).meta == {}
    assert extra(b'{"long": "' + b"y" * 2**18 + b'"}').meta == {}
    assert Record(IMAGE, "cat", {"column3": "x"}) == extra(b"x") == pickle.loads(pickle.dumps(extra(b"x")))


def test_further_captions_are_in_the_json_column() -> None:
    record = extra(b'{"a": 1, "captions": ["dog", "cat", "dog", 3, "\\ud800", "a tom"], "text": "tom"}')
    assert record.more_captions == ("tom", "dog", "a tom")
    assert record.meta == {"a": 1}
    assert extra(b'{"captions": "dog"}').more_captions == ("dog",)
    assert extra(b'{"captions": ').more_captions == extra(b'"captions": ["dog"]').more_captions == ()


def test_meta_is_parsed_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr("ppsd.formats.extras.parse_object", lambda text: parsed.append(text) or json.loads(text))
    meta = extra(b'{"similarity": 0.3, "subcaptions": 1}').meta
    assert parsed == []
    assert isinstance(meta, LazyMeta)
    assert meta["similarity"] == dict(meta)["similarity"] == 0.3
    assert len(parsed) == 1


def test_meta_and_captions_are_written_as_one_json_column() -> None:
    meta = {
        "b": 0.5,
        "a": "tab\tand\nline",
        "none": None,
        "nan": float("nan"),
        "path": Path("x/y"),
        "é": [1, {"z": True}],
    }
    line = encode_line(Record(IMAGE, "cat", meta, ("dog", "tom")))
    column = '{"a":"tab\\tand\\nline","b":0.5,"captions":["dog","tom"],"path":"x/y","é":[1,{"z":true}]}'
    assert line == part_line("cat", IMAGE).rstrip(b"\n") + b"\t" + column.encode() + b"\n"
    record = parse_line(line.rstrip(b"\n"))
    assert record.more_captions == ("dog", "tom")
    assert record.meta == {"a": "tab\tand\nline", "b": 0.5, "path": "x/y", "é": [1, {"z": True}]}
    assert encode_line(record) == line
    assert encode_line(Record(IMAGE, "cat", {"none": None})) == part_line("cat", IMAGE)
    half = encode_line(Record(IMAGE, "cat", {"a": "\ud800"}))
    assert parse_line(half.rstrip(b"\n")).meta == {"a": "\ud800"}


def test_meta_that_no_reader_takes_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"record with 262154 bytes of meta: caption 'cat'"):
        encode_line(Record(IMAGE, "cat", {"a": "x" * (2**18 + 2)}))


def test_gb18030_captions(tmp_path: Path) -> None:
    text = "一个红色的圆形 on 蓝色背景 𠮷"
    part = write_lines(tmp_path / "part", [part_line(text.encode(codec), IMAGE) for codec in ("utf-8", "gb18030")])
    assert [record.caption for record in records(part)] == [text, text]


def aes_line(row: object, columns: int = 6) -> bytes:
    text = row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()
    return b"\t".join([b"0", b"http://x/", text, b"640", b"480", base64.b64encode(IMAGE)][:columns])


def test_laion_aes_captions() -> None:
    for dialect in ("auto", "laion_aes"):
        both = parse_line(aes_line({"caption_en": "a", "blip_caption_en": "b", "punsafe": 0.5, "none": None}), dialect)
        assert both == Record(IMAGE, "a", {"punsafe": 0.5}, ("b",))
        assert parse_line(aes_line({"caption_en": "a", "blip_caption_en": "a"}), dialect) == Record(IMAGE, "a")
        assert parse_line(aes_line({"blip_caption_en": "b"}), dialect) == Record(IMAGE, "b")
        assert parse_line(aes_line({"caption_en": "", "blip_caption_en": "b"}), dialect) == Record(
            IMAGE, "", {}, ("b",)
        )
        assert parse_line(aes_line({"caption_en": "猫"}) + b"\tmore", dialect) == Record(IMAGE, "猫")


def test_laion400m_with_six_columns_is_not_taken_for_laion_aes() -> None:
    line = part_line("{cat}", IMAGE).rstrip(b"\n") + b"\t1\t2\t3\t4"
    assert parse_line(line) == Record(IMAGE, "{cat}", {"column3": "1", "column4": "2", "column5": "3", "column6": "4"})


@pytest.mark.parametrize(
    ("line", "dialect", "reason"),
    [
        (b"just one column", "auto", laion.TOO_FEW_COLUMNS),
        (b"", "auto", laion.TOO_FEW_COLUMNS),
        (b"caption\tNONE", "laion400m", laion.TOO_FEW_COLUMNS),
        (part_line("a", IMAGE).strip(), "laion_aes", laion.TOO_FEW_COLUMNS),
        (aes_line({"caption_en": "a"}, columns=5), "auto", laion.TOO_FEW_COLUMNS),
        (b"caption\tNONE\tnot base64!", "auto", BAD_BASE64),
        (b"caption\tNONE\t" + base64.b64encode(IMAGE)[:-3], "auto", BAD_BASE64),
        (b"caption\tNONE\t " + base64.b64encode(IMAGE), "auto", BAD_BASE64),
        (b"caption\tNONE\t\xe4\xb8\x80", "auto", BAD_BASE64),
        (aes_line({"caption_en": "a"}), "laion400m", BAD_BASE64),
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
    monkeypatch.setattr(laion, "decode_base64", lambda text: calls.append(1) or decode_base64(text))
    assert len(list(read_part(part, start=4, every=2))) == 3
    assert len(calls) == 3


def test_gzip_truncated_in_the_middle_ends_with_one_bad_record(tmp_path: Path, library: str) -> None:
    part = write_lines(tmp_path / "part.gz", [part_line(str(n), jpeg_bytes(seed=n)) for n in range(100)], compress=True)
    data = part.read_bytes()
    part.write_bytes(data[: len(data) // 2])
    found = reasons(part)
    assert 20 < len(found) < 80
    assert [reason for _, reason in found[:-1]] == [""] * (len(found) - 1)
    assert found[-1] == (len(found), laion.TRUNCATED_GZIP)
    assert next(read_part(part, start=90))[1].reason == laion.TRUNCATED_GZIP


def packed_part(path: Path, count: int = 100) -> bytes:
    lines = [part_line(str(n), jpeg_bytes(seed=n)) for n in range(count)]
    return write_lines(path, lines, compress=True).read_bytes()


def test_gzip_damaged_in_the_middle_ends_with_one_bad_record(tmp_path: Path, library: str) -> None:
    data = bytearray(packed_part(tmp_path / "part.gz"))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    (tmp_path / "part.gz").write_bytes(data)
    bad = [(n, reason) for n, reason in reasons(tmp_path / "part.gz") if reason]
    assert bad[-1][1] == laion.CORRUPT_GZIP
    assert bad[-1][0] == len(reasons(tmp_path / "part.gz"))


@pytest.mark.parametrize("tail", [b"garbage", b"\0\0garbage", b"\x1f\x8b\x07", b"\x1f\x8b\x08"])
def test_what_follows_the_end_of_gzip_is_reported(tmp_path: Path, tail: bytes, library: str) -> None:
    (tmp_path / "part").write_bytes(packed_part(tmp_path / "part", 10) + tail)
    reason = laion.TRUNCATED_GZIP if tail.endswith(b"\x08") else laion.CORRUPT_GZIP
    assert reasons(tmp_path / "part") == [*((n, "") for n in range(1, 11)), (11, reason)]


@pytest.mark.parametrize("back", [1, 5])
def test_wrong_checksum_or_length_is_reported(tmp_path: Path, back: int, library: str) -> None:
    data = bytearray(packed_part(tmp_path / "part"))
    data[-back] ^= 1
    (tmp_path / "part").write_bytes(data)
    found = reasons(tmp_path / "part")
    assert found[-1] == (len(found), laion.CORRUPT_GZIP)
    assert 40 < len(found) <= 101


def test_gzip_of_several_members_with_zeros_between_and_behind(tmp_path: Path, library: str) -> None:
    first, second = packed_part(tmp_path / "part", 3), packed_part(tmp_path / "part", 50)
    (tmp_path / "part").write_bytes(first + bytes(100) + second + first + bytes(200_000))
    assert [reason for _, reason in reasons(tmp_path / "part")] == [""] * 56


def test_damaged_gzip_gives_the_same_records_with_and_without_the_fast_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the damage is noticed may differ by what one piece of the file holds, what is wrong may not."""
    whole, path = packed_part(tmp_path / "whole"), tmp_path / "part"
    intact = list(read_part(tmp_path / "whole"))
    draw = random.Random(0)
    seen = set()
    for _ in range(60):
        data = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole)
        if len(data) == len(whole):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        found = []
        for inflating in (inflate.LIBRARY, zlib):
            with monkeypatch.context() as patch:
                patch.setattr(inflate, "LIBRARY", inflating)
                found.append(list(read_part(path)))
        if len(data) < len(whole):
            assert found[0][:-1] == found[1][:-1] == intact[: len(found[0]) - 1]
        last = [records[-1] for records in found]
        assert [bad.reason for _, bad in last[:1]] == [bad.reason for _, bad in last[1:]]
        assert abs(len(found[0]) - len(found[1])) <= 40
        seen.add(last[0][1].reason)
    assert {laion.TRUNCATED_GZIP, laion.CORRUPT_GZIP} <= seen


def test_inflating_holds_little(library: str) -> None:
    packed = gzip.compress(random.Random(0).randbytes(2**24), mtime=0)
    held = (packed[begin : begin + 2**16] for begin in range(0, len(packed), 2**16))
    tracemalloc.start()
    assert sum(len(piece) for piece in inflated(held)) == 2**24
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text", [b"AAAA====", b"AA==AA==", b"A===", b"====", b"AAA", b"A A=", b"AA=A", b"AA-_", b"AAAA\n"]
)
def test_base64_is_checked_to_the_letter(text: bytes, library: str) -> None:
    bad = decode_base64(memoryview(text))
    assert isinstance(bad, BadRecord)
    assert bad.reason == BAD_BASE64
    fault = {b"AAAA\n": "b'\\n' at character 4", b"AAA": "3 is not a multiple of 4", b"AA=A": "padding before the end"}
    assert bad.detail.startswith(fault.get(text, ""))


def test_base64_of_every_length(library: str) -> None:
    for length in range(100):
        data = bytes(range(156, 156 + length))
        assert decode_base64(memoryview(b"\t" + base64.b64encode(data))[1:]) == data


def test_lines_do_not_depend_on_how_the_file_comes() -> None:
    draw = random.Random(0)
    for _ in range(200):
        data = bytes(draw.choices(b"ab\r\n", k=draw.randrange(40)))
        cuts = sorted(draw.choices(range(len(data) + 1), k=3))
        reader = LineReader(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)]) if a < b)
        expected = [
            line[:-1].removesuffix(b"\r") if line.endswith(b"\n") else line
            for line in re.findall(rb"[^\n]*\n|[^\n]+", data)
        ]
        assert expected == list(iter(reader.read, None))


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
