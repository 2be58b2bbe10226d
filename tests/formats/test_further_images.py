"""Images that belong to an image (a condition, a mask), in every format: written, read, and left out."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Union

import pyarrow as pa
import pytest
from pyarrow import parquet

from ppsd.formats import extras
from ppsd.formats.base64_bytes import decode_base64
from ppsd.formats.csv_rows import read_csv
from ppsd.formats.extras import LazyMeta
from ppsd.formats.image_folder import read_folder_part, read_image_folder
from ppsd.formats.image_folder_writer import write_folder
from ppsd.formats.items import OUTSIDE, FolderItem
from ppsd.formats.jsonl import read_jsonl
from ppsd.formats.laion import encode_line, parse_line, write_part
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.parts import read_any
from ppsd.formats.webdataset import write_tar
from ppsd.types import BadRecord, Record
from tests.images import encode, jpeg_bytes, noise_image, part_line, write_lines

IMAGE = jpeg_bytes(16, 16)
MASK, HINT = encode(noise_image(16, 16, 1), "PNG"), jpeg_bytes(24, 24, 2)
META = {"score": 0.5, "conditioning_image": HINT, "mask": MASK}
RECORDS = [Record(IMAGE, f"cat {n}", {**META, "score": n} if n % 3 else {"score": n}, ("tom",)) for n in range(1, 7)]

WRITERS: dict[str, Callable[[Path, Iterable[Record]], Any]] = {
    "part": write_part,
    "part.gz": lambda path, records: write_part(path, records, gzip=True),
    "part.tar": write_tar,
    "part.tar.gz": lambda path, records: write_tar(path, records, gzip=True),
    "part.parquet": write_parquet,
    "folder": write_folder,
}


def with_files(record: Union[Record, BadRecord]) -> Record:
    """With the bytes of the files that the meta names."""
    assert isinstance(record, Record), record
    meta = {name: value.read_bytes() if isinstance(value, Path) else value for name, value in record.meta.items()}
    return Record(record.image, record.caption, meta, record.more_captions)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    assert WRITERS[name](tmp_path / name, RECORDS) == 6
    found = read_any(tmp_path / name, more_images=("conditioning_image", "mask"))
    assert [with_files(record) for _, record in found] == RECORDS
    found = read_any(tmp_path / name, 1, every=2, offset=1, more_images=("conditioning_image", "mask"))
    assert [with_files(record) for _, record in found] == RECORDS[1::2]


@pytest.mark.parametrize("name", WRITERS)
def test_without_need_images_are_not_read(tmp_path: Path, name: str) -> None:
    """But for those of a folder, whose paths cost nothing."""
    WRITERS[name](tmp_path / name, RECORDS)
    for _, record in read_any(tmp_path / name):
        assert isinstance(record, Record)
        names = {key for key, value in record.meta.items() if not isinstance(value, Path)}
        assert names == {"score"}, "neither the image nor its base64 as a text"
        assert record.more_captions == ("tom",)
    for _, record in read_any(tmp_path / name, more_images=("mask",)):
        assert isinstance(record, Record)
        assert name == "folder" or set(record.meta) <= {"score", "mask"}


def test_columns_of_a_laion_part_have_names() -> None:
    line = encode_line(RECORDS[0])
    columns = line.rstrip(b"\n").split(b"\t")
    assert columns[:3] == part_line("cat 1", IMAGE).rstrip(b"\n").split(b"\t")
    assert json.loads(columns[3]) == {"columns": ["conditioning_image", "mask"], "score": 1, "captions": ["tom"]}
    assert [base64.b64decode(column) for column in columns[4:]] == [HINT, MASK]
    assert encode_line(Record(IMAGE, "x", {"a": 1})).count(b"\t") == 3


def line_of(*columns: bytes) -> bytes:
    return b"\t".join([part_line("cat", IMAGE).rstrip(b"\n"), *columns])


def meta_of(line: bytes, *images: str, **how: Any) -> Any:
    record = parse_line(line, more_images=images, **how)
    assert isinstance(record, Record)
    return record.meta


def test_columns_of_a_laion_part_by_number() -> None:
    line = line_of(b"text", base64.b64encode(HINT))
    assert meta_of(line, "column4") == {"column3": "text", "column4": HINT}
    assert meta_of(line_of(base64.b64encode(HINT)), "column3") == {"column3": HINT}
    assert meta_of(line_of(b'{"a": 1}', b"x", base64.b64encode(HINT)), "column5") == {
        "a": 1,
        "column4": "x",
        "column5": HINT,
    }
    named = line_of(b'{"columns": ["mask"]}', base64.b64encode(MASK), base64.b64encode(HINT))
    assert meta_of(named, "mask", "column5") == {"mask": MASK, "column5": HINT}
    assert meta_of(named, "column4", "column5") == {"column5": HINT}, "column 4 has a name"


def test_a_column_of_laion_aes_by_number() -> None:
    row = json.dumps({"caption_en": "cat", "score": 1}).encode()
    line = b"\t".join([b"0", b"u", row, b"1", b"1", base64.b64encode(IMAGE), base64.b64encode(HINT)])
    assert meta_of(line, "column6") == {"score": 1, "column6": HINT}
    assert meta_of(line) == meta_of(line, "mask") == {"score": 1}


def test_what_is_wrong_with_a_column() -> None:
    row = b'{"columns": ["mask", "depth"]}'
    assert meta_of(line_of(row, b"", b"ab*d"), "mask", "depth")["mask"] == BadRecord(
        "empty image", "no byte in the column mask"
    )
    assert meta_of(line_of(row, b"", b"ab*d"), "mask", "depth")["depth"].reason == "invalid base64"
    assert "depth" not in meta_of(line_of(row, b"QUFB"), "mask", "depth"), "the line is too short"
    for odd in (b'{"columns": "mask"}', b'{"columns": [1]}', b'{"columns": {"mask": 1}}'):
        assert meta_of(line_of(odd, b"QUFB"), "mask") == {**json.loads(odd), "column4": "QUFB"}


def test_images_of_a_line_are_decoded_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(extras, "decode_base64", lambda text: decoded.append(1) or decode_base64(text))
    meta = meta_of(encode_line(RECORDS[0]).rstrip(b"\n"), "mask")
    assert isinstance(meta, LazyMeta)
    assert meta["score"] == 1
    assert decoded == []
    assert meta["mask"] == MASK
    assert decoded == [1]
    assert meta.image_bytes > 4 / 3 * (len(MASK) + len(HINT))
    assert meta_of(encode_line(RECORDS[0]).rstrip(b"\n")).image_bytes == 0


def test_large_images_do_not_cost_the_meta() -> None:
    """A condition of more than the limit of meta; a JSON column beyond it is left out with what it names."""
    record = Record(IMAGE, "x", {"a": 1, "mask": os.urandom(2**19)})
    line = encode_line(record).rstrip(b"\n")
    assert parse_line(line, more_images=("mask",)) == record
    assert meta_of(line) == {"a": 1}
    assert meta_of(line_of(b'{"long": "' + b"y" * 2**18 + b'"}', b"QUFB"), "mask") == {}


def test_tar_members(tmp_path: Path) -> None:
    files = {"a.jpg": IMAGE, "a.txt": b"x", "a.mask.png": MASK, "a.hint.JPG": HINT, "a.depth": MASK, "a.notes.md": b"?"}
    path = _tar(tmp_path / "a.tar", files)
    names = ("mask", "hint.jpg", "depth", "edges")
    ((_, record),) = read_any(path, more_images=names)
    assert record == Record(IMAGE, "x", {"mask": MASK, "hint.jpg": HINT, "depth": MASK})
    assert next(read_any(path))[1] == Record(IMAGE, "x")
    twice = _tar(tmp_path / "b.tar", {**files, "a.mask.jpg": HINT})
    ((_, bad),) = read_any(twice, more_images=("mask",))
    assert bad == BadRecord("duplicate member", "a.mask is there more than once")
    empty = _tar(tmp_path / "c.tar", {**files, "a.mask.png": b""})
    assert next(read_any(empty, more_images=("mask",)))[1] == BadRecord("empty image", "a.mask.png")
    with pytest.raises(ValueError, match="a tar has no place for an image 'A/b'"):
        write_tar(tmp_path / "d.tar", [Record(IMAGE, "x", {"A/b": MASK})])


def _tar(path: Path, files: dict[str, bytes]) -> Path:
    import io
    import tarfile

    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_parquet_columns(tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([IMAGE, IMAGE, IMAGE]),
            "text": ["a", "b", "c"],
            "hint": pa.array([{"bytes": HINT, "path": "x"}, None, {"bytes": b"", "path": None}], struct),
            "mask": pa.array([MASK, MASK, MASK]),
            "vector": pa.array([b"1", b"2", b"3"]),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    found = [record for _, record in read_any(tmp_path / "a.parquet", more_images=("hint", "mask", "gone"))]
    assert found == [
        Record(IMAGE, "a", {"hint": HINT, "mask": MASK}),
        Record(IMAGE, "b", {"mask": MASK}),
        BadRecord("empty image", "column 'hint'"),
    ]
    records = [record for _, record in read_any(tmp_path / "a.parquet")]
    assert records == [Record(IMAGE, text) for text in "abc"]


def test_parquet_of_images_that_come_late(tmp_path: Path) -> None:
    records = [Record(IMAGE, "x")] * 300 + [Record(IMAGE, "x", {"mask": MASK})]
    with pytest.raises(ValueError, match="record with a mask where the first 256 records of the part have none"):
        write_parquet(tmp_path / "a.parquet", records)
    assert not (tmp_path / "a.parquet").exists()


def folder_with(path: Path, *names: str) -> Path:
    """set/ with a.jpg and c/b.png, beside it secret.png; rows whose columns `hint` are `names`."""
    (path / "set/sub").mkdir(parents=True)
    (path / "set/c").mkdir()
    for name in ("set/a.jpg", "set/sub/a.jpg", "set/c/b.png", "secret.png"):
        (path / name).write_bytes(MASK)
    rows = [{"file_name": "a.jpg", "text": "x", "hint": name} for name in names]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (path / "set/metadata.jsonl").write_text(text)
    (path / "set/list.jsonl").write_text(text)
    lines = ["file_name,text,hint", *(f"a.jpg,x,{name}" for name in names)]
    (path / "set/list.csv").write_text("\n".join(lines))
    return path / "set"


def test_paths_of_any_column(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "c/b.png", "gone.png", "")
    found = [item for _, item in read_image_folder(folder, more_images=("hint",))]
    assert isinstance(found[0], FolderItem)
    assert found[0].meta == {"hint": folder / "c/b.png"}
    assert found[1] == BadRecord("missing image", str(folder / "gone.png"))
    assert isinstance(found[2], FolderItem)
    assert found[2].meta == {"hint": ""}
    assert [item.meta["hint"] for _, item in read_image_folder(folder) if isinstance(item, FolderItem)] == [
        "c/b.png",
        "gone.png",
        "",
    ]
    assert next(read_folder_part(folder, more_images=("hint",)))[1] == Record(MASK, "x", {"hint": folder / "c/b.png"})


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    names = ["../secret.png", str(secret), "link.png", "up/secret.png", "c/../../secret.png", "c/../c/b.png"]
    folder = folder_with(tmp_path, *names)
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "up").symlink_to("..")
    readers: list[Callable[[], Any]] = [
        lambda: read_image_folder(folder, more_images=("hint",)),
        lambda: read_jsonl(folder / "list.jsonl", "file_name", "text", ("hint",)),
        lambda: read_csv(folder / "list.csv", "file_name", "text", ("hint",)),
    ]
    for read in readers:
        *refused, allowed = [item for _, item in read()]
        assert isinstance(allowed, FolderItem)
        assert len(refused) == 5
        for item in refused:
            assert isinstance(item, BadRecord), item
            assert item.reason == OUTSIDE
            assert f"is {secret}, which is not in {folder}" in item.detail


def test_a_path_that_leaves_the_folder_matters_only_where_it_is_needed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    row = {"file_name": "a.jpg", "text": "x", "mask": "../secret.png"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    ((_, item),) = read_image_folder(folder)
    assert isinstance(item, FolderItem)
    assert item.meta == {}
    ((_, bad),) = read_image_folder(folder, more_images=("mask",))
    assert isinstance(bad, BadRecord)


def test_a_folder_within_a_folder_may_share_its_images(tmp_path: Path) -> None:
    """`../c/b.png` from set/sub is in the set; set/sub read by itself may not have it."""
    folder = folder_with(tmp_path)
    (folder / "metadata.jsonl").unlink()
    row = {"file_name": "a.jpg", "text": "x", "mask": "../c/b.png"}
    (folder / "sub/metadata.jsonl").write_text(json.dumps(row))
    items = [item for _, item in read_image_folder(folder, more_images=("mask",)) if isinstance(item, FolderItem)]
    assert [os.path.samefile(item.meta["mask"], folder / "c/b.png") for item in items if item.meta] == [True]
    ((_, alone),) = read_image_folder(folder / "sub", more_images=("mask",))
    assert isinstance(alone, BadRecord)
    assert alone.reason == OUTSIDE


def test_a_broken_line_costs_itself_alone(tmp_path: Path) -> None:
    lines = [encode_line(record) for record in RECORDS[:3]]
    lines[1] = lines[1].replace(base64.b64encode(MASK), b"!!!")
    write_lines(tmp_path / "part", lines)
    read = [record for _, record in read_any(tmp_path / "part", more_images=("mask",)) if isinstance(record, Record)]
    first, second, third = (record.meta.get("mask") for record in read)
    assert (first, third) == (MASK, None)
    assert isinstance(second, BadRecord)
    assert second.reason == "invalid base64"
