from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from ppsd.formats import gzip_members, laion
from ppsd.formats.gzip_members import MemberWriter, read_header
from ppsd.formats.inflate import inflated
from ppsd.formats.laion import read_part, write_part
from ppsd.types import BadRecord, Record


@pytest.fixture(autouse=True)
def small_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_members, "MEMBER_BYTES", 2000)


def written(path: Path, count: int = 50, seed: int = 0) -> list[Record]:
    bytes_of = random.Random(seed).randbytes
    records = [Record(bytes_of(random.Random(i).randint(1, 900)), f"caption {i}") for i in range(count)]
    write_part(path, records, gzip=True)
    return records


def members(data: bytes) -> list[tuple[int, bytes]]:
    """Where each member begins and what it holds, by zlib alone."""
    found, begin = [], 0
    while begin < len(data):
        inflate = zlib.decompressobj(wbits=31)
        text = inflate.decompress(data[begin:])
        assert inflate.eof
        found.append((begin, text))
        begin = len(data) - len(inflate.unused_data)
    return found


def test_any_reader_reads_them_and_each_tells_its_size_and_lines(tmp_path: Path) -> None:
    records = written(tmp_path / "part.gz")
    data = (tmp_path / "part.gz").read_bytes()
    found = members(data)
    assert len(found) > 5
    assert gzip.decompress(data).count(b"\n") == len(records)
    ends = [begin for begin, _ in found[1:]] + [len(data)]
    for (begin, text), end in zip(found, ends):
        assert text.endswith(b"\n")
        assert read_header(data[begin:]) == (end - begin, text.count(b"\n"))


def test_a_part_without_records_is_one_empty_member(tmp_path: Path) -> None:
    assert write_part(tmp_path / "empty.gz", [], gzip=True) == 0
    assert members((tmp_path / "empty.gz").read_bytes()) == [(0, b"")]


@pytest.mark.parametrize("every", [1, 3])
def test_starting_anywhere_gives_what_reading_from_the_start_gives(tmp_path: Path, every: int) -> None:
    records = written(tmp_path / "part.gz")
    for start in range(len(records) + 2):
        lines = list(read_part(tmp_path / "part.gz", start, every=every, offset=every - 1))
        wanted = [n for n in range(start + 1, len(records) + 1) if (n - 1) % every == every - 1]
        assert lines == [(n, records[n - 1]) for n in wanted]


def test_lines_before_the_start_are_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "part.gz")
    sizes: list[int] = []

    def noting(packed: Iterable[bytes]) -> Iterator[bytes]:
        for piece in inflated(packed):
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(laion, "inflated", noting)
    assert next(iter(read_part(tmp_path / "part.gz", 45)))[0] == 46
    assert 0 < sum(sizes) < 5000
    assert len(gzip.decompress((tmp_path / "part.gz").read_bytes())) > 20_000


def test_members_that_say_nothing_may_follow(tmp_path: Path) -> None:
    """`cat a.gz b.gz` is gzip, too."""
    first = written(tmp_path / "a.gz")
    write_part(tmp_path / "b", [Record(b"x", "last")])
    with open(tmp_path / "a.gz", "ab") as file:
        file.write(gzip.compress((tmp_path / "b").read_bytes()))
    assert [line for line, _ in read_part(tmp_path / "a.gz", len(first))] == [51]
    assert [line for line, _ in read_part(tmp_path / "a.gz", len(first) - 1)] == [50, 51]


@pytest.mark.parametrize("kind", ["size", "lines", "crc", "end"])
def test_damaged_headers_change_no_record(tmp_path: Path, kind: str) -> None:
    """A header whose numbers do not agree says nothing; the lines are counted instead."""
    records = written(tmp_path / "part.gz")
    data = bytearray((tmp_path / "part.gz").read_bytes())
    begin = members(bytes(data))[2][0]
    if kind == "end":
        del data[-20:]
    else:
        data[begin + {"size": 16, "lines": 20, "crc": 24}[kind]] ^= 1
    (tmp_path / "part.gz").write_bytes(bytes(data))
    lines = list(read_part(tmp_path / "part.gz", 40))
    good = [(n, record) for n, record in lines if not isinstance(record, BadRecord)]
    assert good == [(n, records[n - 1]) for n in range(41, 41 + len(good))]
    if kind == "end":
        assert isinstance(lines[-1][1], BadRecord)
        assert lines[-1][1].reason == "truncated gzip"
    else:
        assert len(good) == 10


def test_bytes_depend_on_the_lines_alone(tmp_path: Path) -> None:
    written(tmp_path / "a.gz")
    written(tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    with open(tmp_path / "c.gz", "wb") as file:
        MemberWriter(file).close()
    assert gzip.decompress((tmp_path / "c.gz").read_bytes()) == b""
