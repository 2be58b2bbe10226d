from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from ppsd.formats.items import MISSING_IMAGE, FolderItem
from ppsd.formats.jsonl import read_jsonl
from ppsd.formats.lines import LINE_TOO_LONG
from ppsd.types import BadRecord
from tests.images import jpeg_bytes


def test_coco_karpathy_rows(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014/1.jpg").write_bytes(jpeg_bytes())
    rows = [
        {"caption": "A woman cutting a cake. ", "image": "val2014/1.jpg", "image_id": "coco_1"},
        {"caption": ["one", "two"], "image": str(tmp_path / "val2014/1.jpg")},
        {"caption": "x", "image": "val2014/2.jpg"},
        {"caption": "蛋糕", "image": "val2014/1.jpg"},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    data = tmp_path / "coco.jsonl"
    data.write_bytes("\n".join(lines[:3]).encode() + b"\n" + lines[3].encode("gb18030"))
    image = tmp_path / "val2014/1.jpg"
    assert list(read_jsonl(data)) == [
        (f"{data}:1", FolderItem(image, "A woman cutting a cake. ", {"image_id": "coco_1"})),
        (f"{data}:2", FolderItem(image, "one", more_captions=("two",))),
        (f"{data}:3", BadRecord(MISSING_IMAGE, str(tmp_path / "val2014/2.jpg"))),
        (f"{data}:4", FolderItem(image, "蛋糕")),
    ]


def test_a_row_of_100_megabytes_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg_bytes())
    with open(tmp_path / "a.jsonl", "wb") as file:
        for _ in range(100):
            file.write(b" " * 2**20)
        file.write(b'\n{"image": "1.jpg", "caption": "a"}\n')
    tracemalloc.start()
    items = [item for _, item in read_jsonl(tmp_path / "a.jsonl")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert items[0].reason == LINE_TOO_LONG
    assert items[1].caption == "a"
    assert peak < 150 * 2**20


def test_many_rows_are_not_held(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg_bytes())
    row = json.dumps({"image": "1.jpg", "caption": "word " * 100})
    (tmp_path / "a.jsonl").write_text(f"{row}\n" * 5_000)
    tracemalloc.start()
    assert sum(item.caption.count("word") for _, item in read_jsonl(tmp_path / "a.jsonl")) == 500_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**19


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(read_jsonl(tmp_path / "none.jsonl"))
