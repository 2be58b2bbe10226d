from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ppsd.formats import laion, parquet, parts, tar
from ppsd.formats.laion import write_part
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.parts import UNKNOWN_FORMAT, read_any
from ppsd.formats.webdataset import write_tar
from ppsd.types import BadRecord, Record
from tests.formats.bad_server import BadServer
from tests.images import encode, jpeg_bytes, noise_image, part_line

RECORDS = [Record(jpeg_bytes(16, 16, seed=n), f"picture {n}", {"n": n}, ("x",)) for n in range(6)]


def write_folder(folder: Path) -> None:
    folder.mkdir()
    for n, record in enumerate(RECORDS):
        (folder / f"{n}.jpg").write_bytes(record.image)
        (folder / f"{n}.txt").write_text(record.caption)


WRITERS: dict[str, Any] = {
    "laion": lambda path: write_part(path, RECORDS),
    "laion.gz": lambda path: write_part(path, RECORDS, gzip=True),
    "tar": lambda path: write_tar(path, RECORDS),
    "tar.gz": lambda path: write_tar(path, RECORDS, gzip=True),
    "parquet": lambda path: write_parquet(path, RECORDS),
    "folder": write_folder,
}


def reason(path: Path, **options: Any) -> str:
    """Of the one bad record that all of the part is."""
    ((number, bad),) = read_any(path, 5, every=3, offset=1, **options)
    assert isinstance(bad, BadRecord)
    assert number == 1
    return bad.reason


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("name", ["part", "misleading.gz"])
def test_format_is_told_by_content(tmp_path: Path, kind: str, name: str) -> None:
    WRITERS[kind](tmp_path / name)
    found = list(read_any(tmp_path / name))
    if kind == "folder":
        assert found == [(n, Record(r.image, r.caption)) for n, r in enumerate(RECORDS, start=1)]
    else:
        assert found == list(enumerate(RECORDS, start=1))
    assert list(read_any(str(tmp_path / name), 2, every=2, offset=1)) == [found[3], found[5]]


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "folder"])
@pytest.mark.parametrize("name", ["part", "part.{kind}?signature=1"])
def test_parts_at_urls(tmp_path: Path, kind: str, name: str) -> None:
    WRITERS[kind](tmp_path / "part")
    server = BadServer()
    try:
        server.add(f"part.{kind}", (tmp_path / "part").read_bytes())
        url = server.add("part", (tmp_path / "part").read_bytes())
        found = list(read_any(f"{server.url}/{name.format(kind=kind)}"))
        assert found == list(enumerate(RECORDS, start=1))
        assert list(read_any(url, 3, every=2, offset=1)) == [found[3], found[5]]
        assert [bad.reason for _, bad in read_any(f"{server.url}/gone.{kind}")] == [laion.UNREADABLE_PART]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("kind", "data_format"),
    [("laion", "laion400m"), ("tar.gz", "webdataset"), ("parquet", "parquet"), ("folder", "image_folder")],
)
def test_format_that_is_said(tmp_path: Path, kind: str, data_format: str) -> None:
    WRITERS[kind](tmp_path / "part")
    assert list(read_any(tmp_path / "part", data_format=data_format)) == list(read_any(tmp_path / "part"))


def test_format_that_is_said_is_not_guessed(tmp_path: Path) -> None:
    WRITERS["tar"](tmp_path / "part")
    assert reason(tmp_path / "part", data_format="parquet") == parquet.CORRUPT_PARQUET
    WRITERS["laion"](tmp_path / "other")
    assert reason(tmp_path / "other", data_format="webdataset") == tar.CORRUPT_TAR
    (_, bad) = next(read_any(tmp_path / "other", data_format="webdataset"))
    assert bad.detail.startswith("this is not a tar archive: it begins with b'")
    assert next(read_any(tmp_path / "other", data_format="laion_aes"))[1].reason == laion.TOO_FEW_COLUMNS


def test_latents(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no safetensors")
    assert reason(tmp_path / "a.safetensors") == "not a latents file"
    assert reason(tmp_path / "a.safetensors", data_format="latents") == "not a latents file"
    (tmp_path / "a").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert parts.format_by_content((40).to_bytes(8, "little") + b'{"x":') == "latents"


@pytest.mark.parametrize(
    "data",
    [
        *(b"PK\x03\x04...", b"\x28\xb5\x2f\xfd...", b"BZh9", b"\xfd7zXZ\0", jpeg_bytes(8, 8)),
        *(encode(noise_image(8, 8), "PNG"), encode(noise_image(8, 8), "WEBP")),
    ],
)
def test_what_is_no_part_is_one_bad_record(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "part").write_bytes(data)
    assert reason(tmp_path / "part") == UNKNOWN_FORMAT


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("gone", None, laion.UNREADABLE_PART),
        ("gone.parquet", None, laion.UNREADABLE_PART),
        ("gone.safetensors", None, laion.UNREADABLE_PART),
        ("empty", b"", laion.EMPTY_PART),
        ("empty.tar", bytes(10240), laion.EMPTY_PART),
        ("cut.tar", bytes(100), tar.TRUNCATED_TAR),
        ("damaged.tar", b"x" * 10240, tar.CORRUPT_TAR),
        ("damaged.TAR?signature=1", b"x" * 10240, tar.CORRUPT_TAR),
        ("damaged.tar.gz", gzip.compress(b"x" * 10240, mtime=0), tar.CORRUPT_TAR),
        ("damaged.tgz", b"\x1f\x8b\x08 nothing like gzip", laion.CORRUPT_GZIP),
        ("damaged.parquet", b"x" * 1000, parquet.CORRUPT_PARQUET),
        ("damaged.gz", b"\x1f\x8b\x09\xff nothing like gzip", laion.CORRUPT_GZIP),
    ],
)
def test_part_that_cannot_be_read_is_one_bad_record(
    tmp_path: Path, name: str, data: bytes | None, expected: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert reason(tmp_path / name) == expected


def test_damaged_first_line_does_not_cost_the_part(tmp_path: Path) -> None:
    line = part_line("cat", jpeg_bytes(8, 8))
    (tmp_path / "part").write_bytes(b"\0\xff\1" + line + line)
    assert [type(record) for _, record in read_any(tmp_path / "part")] == [BadRecord, Record]


def test_column_names_reach_every_reader(tmp_path: Path) -> None:
    records = [Record(b"1", "cat", {"alt": "by alt"})]
    write_tar(tmp_path / "a.tar", records)
    write_parquet(tmp_path / "a.parquet", records)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/metadata.jsonl").write_text('{"file_name": "1.jpg", "text": "cat", "alt": "by alt"}')
    (tmp_path / "folder/1.jpg").write_bytes(b"1")
    for name in ("a.tar", "a.parquet", "folder"):
        assert list(read_any(tmp_path / name, caption_column="alt")) == [(1, Record(b"1", "by alt", {}, ("cat",)))]
        image = "file" if name == "folder" else "webp"
        assert isinstance(next(read_any(tmp_path / name, image_column=image))[1], BadRecord)


def test_unknown_format_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data format 'tfrecord': expected one of auto, laion400m, laion_aes, webd"):
        read_any(tmp_path / "part", data_format="tfrecord")


def test_files_are_closed(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        write(tmp_path / kind)
        records = read_any(tmp_path / kind)
        next(records)
        records.close()
        assert not [f for f in os.listdir("/proc/self/fd") if str(tmp_path) in os.path.realpath(f"/proc/self/fd/{f}")]


def test_pyarrow_is_imported_when_a_parquet_is_read_only() -> None:
    code = "import sys, ppsd.formats.parts; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
