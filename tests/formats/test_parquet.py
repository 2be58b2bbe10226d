from __future__ import annotations

import datetime
import io
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppsd.formats import image_bytes, laion, parquet, parquet_writer
from ppsd.formats.lines import NO_CAPTION, NOT_TEXT
from ppsd.formats.parquet import read_parquet
from ppsd.formats.parquet_writer import write_parquet
from ppsd.types import BadRecord, Record
from tests.images import jpeg_bytes

JPEG = jpeg_bytes(16, 16)


def make(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def records(path: Path, *args: int, **options: Any) -> list[Record | BadRecord]:
    return [record for _, record in read_parquet(path, *args, **options)]


def outcomes(path: Path, *args: int, **options: Any) -> list[tuple[int, str]]:
    """(number, caption or reason)"""
    found = read_parquet(path, *args, **options)
    return [(n, record.reason if isinstance(record, BadRecord) else record.caption) for n, record in found]


def test_img2dataset(tmp_path: Path) -> None:
    path = make(
        tmp_path / "00000.parquet",
        {
            "url": ["http://x/0", "http://x/1"],
            "key": ["000000000", "000000001"],
            "caption": ["a", "b"],
            "error_message": pa.array([None, None], pa.string()),
            "similarity": [0.5, float("nan")],
            "width": pa.array([16, None], pa.int32()),
            "jpg": [JPEG, b"1"],
            "thumbnail": [b"x", b"y"],
        },
    )
    meta = {"url": "http://x/0", "key": "000000000", "similarity": 0.5, "width": 16}
    assert records(path) == [Record(JPEG, "a", meta), Record(b"1", "b", {"url": "http://x/1", "key": "000000001"})]


def test_hugging_face(tmp_path: Path) -> None:
    image = [{"bytes": JPEG, "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}, None, {"bytes": b"4", "path": None}]
    text = [["one", "two"], ["x"], ["x"], []]
    date = [datetime.date(2024, 1, 2)] * 4
    path = make(tmp_path / "a.parquet", {"image": image, "text": text, "made": date, "tags": [[1, 2]] * 4})
    first, second, third, fourth = records(path)
    assert first == Record(JPEG, "one", {"made": "2024-01-02", "tags": [1, 2]}, ("two",))
    assert second == third == BadRecord(parquet.NO_IMAGE_BYTES, "column 'image'")
    assert fourth.reason == NO_CAPTION


def test_columns_are_the_users(tmp_path: Path) -> None:
    columns = {"image": [JPEG], "crop": pa.array([b"2"], pa.large_binary()), "caption": ["a"], "blip": ["b"], "n": [1]}
    path = make(tmp_path / "a.parquet", columns)
    expected = [Record(b"2", "b", {"n": 1}, ("a",))]
    assert records(path, image_column="crop", caption_column="blip") == expected
    assert records(path, caption_column="blip") == [Record(JPEG, "b", {"n": 1}, ("a",))]
    for options, what in (({"image_column": "caption"}, "image"), ({"caption_column": "crop"}, "caption")):
        (bad,) = records(path, **options)
        assert bad.reason == parquet.MISSING_COLUMN
        assert f"--{what}_column names another of: image (binary), crop (large_binary), caption (string)" in bad.detail


def test_null_and_empty_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bytes, "MAX_IMAGE_BYTES", 1000)
    images, captions = [JPEG, None, b"", b"x" * 1001, JPEG], [None, "a", "b", "c", ""]
    path = make(tmp_path / "a.parquet", {"png": images, "TEXT": pa.array(captions, pa.large_string())})
    reasons = [NO_CAPTION, parquet.NO_IMAGE_BYTES, "empty image", "image file too large", ""]
    assert outcomes(path) == list(enumerate(reasons, start=1))


def test_what_is_no_text_costs_its_record_and_no_other(tmp_path: Path) -> None:
    captions, names = [b"a", b"\xff\xfe", b"c"], [b"\xff.jpg", b"2.jpg", b"3.jpg"]
    texts, paths = (pa.Array.from_buffers(pa.string(), 3, pa.array(data).buffers()) for data in (captions, names))
    images = pa.StructArray.from_arrays([pa.array([JPEG, JPEG, None], pa.binary()), paths], ["bytes", "path"])
    path = make(tmp_path / "a.parquet", {"image": images, "text": texts})
    assert outcomes(path) == [(1, "a"), (2, NOT_TEXT), (3, parquet.NO_IMAGE_BYTES)]
    assert outcomes(path, every=2, offset=0) == [(1, "a"), (3, parquet.NO_IMAGE_BYTES)]


@pytest.mark.parametrize("row_group_size", [1, 7, 1000])
def test_start_every_and_offset(tmp_path: Path, row_group_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4)
    columns = {"jpg": [b"%d" % n for n in range(1, 24)], "caption": [str(n) for n in range(1, 24)]}
    path = make(tmp_path / "a.parquet", columns, row_group_size=row_group_size)
    for start in (0, 3, 7, 13, 22, 23, 30):
        for every, offset in ((1, 0), (2, 1), (5, 3)):
            wanted = [n for n in range(start + 1, 24) if (n - 1) % every == offset]
            found = list(read_parquet(path, start, every=every, offset=offset))
            assert found == [(n, Record(b"%d" % n, str(n))) for n in wanted]


def test_row_groups_that_are_passed_over_are_not_read(tmp_path: Path) -> None:
    columns = {"jpg": [random.Random(n).randbytes(10_000) for n in range(40)], "caption": ["x"] * 40}
    path = make(tmp_path / "a.parquet", columns, row_group_size=10, compression="none")
    data = bytearray(path.read_bytes())
    data[10_000:290_000] = bytes(280_000)
    path.write_bytes(data)
    assert outcomes(path, 30) == [(n, "x") for n in range(31, 41)]


def test_a_damaged_row_group_costs_its_rows_and_no_more(tmp_path: Path) -> None:
    written = [Record(random.Random(n).randbytes(3_000), str(n)) for n in range(600)]
    write_parquet(tmp_path / "a.parquet", written)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[256 * 3_000 + 200_000] ^= 1
    (tmp_path / "a.parquet").write_bytes(data)
    found = outcomes(tmp_path / "a.parquet")
    bad = [n for n, reason in found if reason == parquet.CORRUPT_PARQUET]
    assert bad == [512]
    assert [n for n, _ in found] == sorted({n for n, _ in found})
    assert {*range(1, 257), *range(513, 601)} <= {n for n, _ in found}
    assert outcomes(tmp_path / "a.parquet", 512) == [(n, str(n - 1)) for n in range(513, 601)]
    assert outcomes(tmp_path / "a.parquet", 300, every=600, offset=0)[0] == (512, parquet.CORRUPT_PARQUET)


def test_damage_is_never_a_crash_or_another_record(tmp_path: Path) -> None:
    written = dict(enumerate([Record(jpeg_bytes(16, 16, seed=n), f"é {n}", {"n": n}) for n in range(100)], start=1))
    path = tmp_path / "a.parquet"
    write_parquet(path, written.values())
    data, draw = path.read_bytes(), random.Random(0)
    seen = 0
    for trial in range(150):
        damaged = bytearray(data[: draw.randrange(len(data))] if trial % 3 == 0 else data)
        at = draw.randrange(max(0, len(damaged) - (3000 if trial % 3 == 1 else len(data))), len(damaged))
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        for n, record in read_parquet(path):
            assert isinstance(record, BadRecord) or record == written[n]
            seen += isinstance(record, BadRecord)
    assert seen > 100


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet", b"PAR1" + bytes(100) + b"PAR1"])
def test_file_that_is_no_parquet(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    assert outcomes(tmp_path / "a.parquet", 5, every=3, offset=1) == [(1, parquet.CORRUPT_PARQUET)]


def test_file_that_is_not_there_or_empty(tmp_path: Path) -> None:
    assert records(tmp_path / "a.parquet") == [BadRecord(laion.UNREADABLE_PART, "No such file or directory")]
    columns = {"jpg": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}
    assert outcomes(make(tmp_path / "b.parquet", columns), 3) == [(1, laion.EMPTY_PART)]


def test_file_that_fails_on_the_way_is_not_called_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a", [Record(random.Random(n).randbytes(20_000), str(n)) for n in range(600)])

    class Failing(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if 6_000_000 < self.tell() < 11_000_000:
                raise OSError("gave up after 4 attempts")
            return super().readinto(buffer)

    monkeypatch.setattr(parquet, "open_input", lambda path, seekable: io.BufferedReader(Failing(path)))
    found = list(read_parquet(tmp_path / "a"))
    assert found[-1] == (len(found), BadRecord(laion.UNREADABLE_PART, "gave up after 4 attempts"))
    assert 256 < len(found) <= 320
    assert [record.caption for _, record in found[:-1]] == [str(n) for n in range(len(found) - 1)]


def test_one_large_row_group_is_not_held(tmp_path: Path) -> None:
    columns = {"jpg": [random.Random(n).randbytes(2**20) for n in range(100)], "caption": ["x"] * 100}
    path = make(tmp_path / "a.parquet", columns, row_group_size=1000, compression="none", write_batch_size=8)
    del columns
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_parquet(path)]
    assert len(held) == 100
    assert max(held) < 40 * 2**20


RECORDS = [
    Record(
        JPEG, "一只猫", {"similarity": 0.25, "width": 1, "ok": True, "url": "x", "tags": ["a"], "mixed": 1}, ("cat",)
    ),
    Record(b"2", "", {"similarity": 1.5, "mixed": 0.5, "none": None, "image": "i", "a b": "c", "meta_json": "m"}),
    Record(b"3", "a\nb", {"width": 2**40, "url": "\ud800"}),
    Record(b"4", "x"),
    *(Record(b"%d" % n, "x", {"width": n, "late": n}) for n in range(5, 300)),
    Record(b"?", "later another type", {"width": "wide", "late": 1.0, "similarity": 2**70, "ok": 0}),
]


def written(record: Record) -> Record:
    meta = {key: value for key, value in record.meta.items() if value is not None}
    return Record(record.image, record.caption, meta, record.more_captions)


def test_what_is_written_is_read_back_with_its_types(tmp_path: Path) -> None:
    assert write_parquet(tmp_path / "a", RECORDS) == len(RECORDS)
    found = records(tmp_path / "a")
    assert found == list(map(written, RECORDS))
    assert [json.dumps(dict(sorted(record.meta.items()))) for record in found] == [
        json.dumps(dict(sorted(written(record).meta.items()))) for record in RECORDS
    ]
    write_parquet(tmp_path / "b", iter(RECORDS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_meta_of_any_name_and_length_leaves_the_caption_alone(tmp_path: Path) -> None:
    """The JSON of laion_aes may have a "caption" that is not the one in use."""
    write_parquet(tmp_path / "a.parquet", [Record(JPEG, "used", {"caption": "other", "tags": ["中" * 60_000]})])
    assert records(tmp_path / "a.parquet") == [Record(JPEG, "used", {"tags": ["中" * 60_000]}, ("other",))]


def test_pandas_and_pyarrow_read_what_is_written(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", RECORDS)
    frame = pd.read_parquet(tmp_path / "a.parquet")
    columns = ["image", "text", "captions", "late", "ok", "similarity", "url", "width", "meta_json"]
    assert list(frame.columns) == columns
    assert frame["image"][0]["bytes"] == JPEG
    assert list(frame["text"][:3]) == ["一只猫", "", "a\nb"]
    assert list(frame["captions"][0]) == ["cat"]
    assert json.loads(frame["meta_json"][0]) == {"mixed": 1, "tags": ["a"]}
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert str(schema.field("similarity").type) == "double"
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2


def test_pages_of_what_is_written_are_small(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a", (Record(random.Random(n).randbytes(2**18), "x") for n in range(200)))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_parquet(tmp_path / "a")]
    assert len(held) == 200
    assert max(held) < 20 * 2**20


def test_hugging_face_datasets_decodes_what_is_written(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_parquet(tmp_path / "a.parquet", [Record(JPEG, "cat", {"width": 16})])
    schema = pq.read_schema(tmp_path / "a.parquet")
    features = datasets.Features.from_arrow_schema(schema)
    assert isinstance(features["image"], datasets.Image)
    row = datasets.Dataset(pq.read_table(tmp_path / "a.parquet"))[0]
    assert row["image"].size == (16, 16)
    assert (row["text"], row["width"]) == ("cat", 16)


def test_groups_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_writer, "MAX_GROUP_BYTES", 10_000)
    write_parquet(tmp_path / "a", [Record(bytes([1]) * 4_000, "x")] * 7)
    assert pq.ParquetFile(tmp_path / "a").metadata.row_group(0).num_rows == 3
    assert len(records(tmp_path / "a")) == 7


def test_record_without_image_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record without an image: caption 'cat'"):
        write_parquet(tmp_path / "a", [RECORDS[0], Record(b"", "cat")])
    assert list(tmp_path.iterdir()) == []
