from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ppsd.formats import image_bytes
from ppsd.formats.image_folder import UNREADABLE_CAPTION, read_folder_part, read_image_folder
from ppsd.formats.items import MISSING_IMAGE, NO_IMAGE_PATH, FolderItem
from ppsd.formats.lines import BAD_JSON, LINE_TOO_LONG, NO_CAPTION, NOT_TEXT
from ppsd.types import BadRecord, Record
from tests.images import jpeg_bytes


def make(root: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return root


def found(root: Path, **options: Any) -> list[tuple[str, str | None]]:
    """(where it comes from, caption or reason) with paths relative to root."""
    return [
        (os.path.relpath(where, root), item.reason if isinstance(item, BadRecord) else item.caption)
        for where, item in read_image_folder(root, **options)
    ]


JPEG = jpeg_bytes(8, 8)


def test_metadata_jsonl(tmp_path: Path) -> None:
    rows = [
        '{"file_name": "b.jpg", "text": "a cat", "author": "me", "conditioning_image": "c/b.png"}',
        "",
        '{"file_name": "a.jpg", "text": ["first", "second"], "mask": null}',
        '{"file_name": "gone.jpg", "text": "a"}',
        '{"file_name": "b.jpg", "text": "a", "depth": "gone.png"}',
        '{"file_name": "b.jpg", "caption": "a"}',
        '{"file_name": "b.jpg", "text": null}',
        '{"file_name": 7, "text": "a"}',
        '{"file_name": "b.jpg", "text": "\\ud83d"}',
        '{"file_name": "b.jpg", "text": "cut',
        '["b.jpg", "a"]',
        '{"file_name": "b.jpg", "text": ""}',
    ]
    files = {"a.jpg": JPEG, "b.jpg": JPEG, "c/b.png": b"?", "metadata.jsonl": "\ufeff" + "\r\n".join(rows)}
    make(tmp_path, **files, **{"unlisted.jpg": JPEG})
    items = list(read_image_folder(tmp_path))
    expected = FolderItem(tmp_path / "b.jpg", "a cat", {"author": "me", "conditioning_image": tmp_path / "c/b.png"})
    assert items[0] == (f"{tmp_path}/metadata.jsonl:1", expected)
    assert found(tmp_path) == [
        ("metadata.jsonl:1", "a cat"),
        ("metadata.jsonl:3", "first"),
        ("metadata.jsonl:4", MISSING_IMAGE),
        ("metadata.jsonl:5", MISSING_IMAGE),
        ("metadata.jsonl:6", NO_CAPTION),
        ("metadata.jsonl:7", NO_CAPTION),
        ("metadata.jsonl:8", NO_IMAGE_PATH),
        ("metadata.jsonl:9", NOT_TEXT),
        ("metadata.jsonl:10", BAD_JSON),
        ("metadata.jsonl:11", BAD_JSON),
        ("metadata.jsonl:12", ""),
    ]


def test_column_names_are_the_users(tmp_path: Path) -> None:
    make(tmp_path, **{"a.jpg": JPEG, "metadata.jsonl": json.dumps({"image": "a.jpg", "prompt": "x", "text": "y"})})
    options = {"image_column": "image", "caption_column": "prompt"}
    assert dict(read_image_folder(tmp_path, **options)) == {
        f"{tmp_path}/metadata.jsonl:1": FolderItem(tmp_path / "a.jpg", "x", more_captions=("y",))
    }


def test_metadata_csv(tmp_path: Path) -> None:
    rows = [
        "file_name,text,mask",
        'a.jpg,"a cat, sitting\non ""two"" lines",m.png',
        "a.jpg,,",
        "",
        "gone.jpg,a,",
        "a.jpg,short",
        'a.jpg,"quoted" and more,',
        "a.jpg,一只猫,",
        "a.jpg,\x00\xff,",
        "a.jpg,last,",
    ]
    text = "\n".join(rows).encode("utf-8").replace("\x00\xff".encode(), b"\xff\xff")
    make(tmp_path, **{"a.jpg": JPEG, "m.png": JPEG, "metadata.csv": "\ufeff".encode() + text})
    assert next(read_image_folder(tmp_path))[1].meta == {"mask": tmp_path / "m.png"}
    assert found(tmp_path) == [
        ("metadata.csv:2", 'a cat, sitting\non "two" lines'),
        ("metadata.csv:4", ""),
        ("metadata.csv:6", MISSING_IMAGE),
        ("metadata.csv:7", "invalid CSV"),
        ("metadata.csv:8", "invalid CSV"),
        ("metadata.csv:9", "一只猫"),
        ("metadata.csv:10", NOT_TEXT),
        ("metadata.csv:11", "last"),
    ]


def test_stray_quote_in_csv_costs_the_rows_it_swallows_and_no_more(tmp_path: Path) -> None:
    rows = ["file_name,text", 'a.jpg,"never closed'] + ["a.jpg,fine"] * 20_000
    make(tmp_path, **{"a.jpg": JPEG, "metadata.csv": "\n".join(rows)})
    captions = [caption for _, caption in found(tmp_path)]
    assert captions[0] == "invalid CSV"
    assert captions.count("fine") > 7_000


def test_csv_without_header_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, **{"metadata.csv": "\n\n"})
    with pytest.raises(ValueError, match=r"metadata.csv:1: expected a header like file_name,text"):
        list(read_image_folder(tmp_path))


def test_both_kinds_of_metadata_are_an_error(tmp_path: Path) -> None:
    make(tmp_path, **{"metadata.csv": "file_name,text\n", "metadata.jsonl": ""})
    with pytest.raises(ValueError, match=r"has both metadata.jsonl and metadata.csv"):
        list(read_image_folder(tmp_path))


def test_sidecar_captions_in_sorted_order(tmp_path: Path) -> None:
    make(
        tmp_path,
        **{
            "c.PNG": JPEG,
            "c.caption": "from .caption",
            "a.jpg": JPEG,
            "a.txt": "\ufeff  first line,\r\n second line \n",
            "a.caption": "not taken",
            "b.b.webp": JPEG,
            "b.b.txt": "一只橘猫".encode("gb18030"),
            "d.jpg": JPEG,
            "d.txt": "",
            "e.jpg": JPEG,
            "f.jpg": JPEG,
            "f.txt": b"\xff\xff\xff",
            "g.jpg": JPEG,
            "g.txt": "x" * (2**20 + 1),
            "notes.txt": "no image",
            ".hidden.jpg": JPEG,
            ".cache/x.jpg": JPEG,
            "sub/000.jpg": JPEG,
            "sub/000.txt": "nested",
            "sub/meta/metadata.csv": "file_name,text\n../../a.jpg,by row\n",
        },
    )
    (tmp_path / "h.jpg").write_bytes(JPEG)
    (tmp_path / "h.txt").symlink_to("nowhere")
    assert found(tmp_path) == [
        ("a.jpg", "first line, second line"),
        ("b.b.webp", "一只橘猫"),
        ("c.PNG", "from .caption"),
        ("d.jpg", ""),
        ("e.jpg", None),
        ("f.txt", NOT_TEXT),
        ("g.txt", LINE_TOO_LONG),
        ("h.txt", UNREADABLE_CAPTION),
        ("sub/000.jpg", "nested"),
        ("sub/meta/metadata.csv:2", "by row"),
    ]


def test_repeats_and_class_token_are_in_the_name_of_a_subfolder(tmp_path: Path) -> None:
    files = {"10_a dog/x.jpg": JPEG, "10_a dog/y.jpg": JPEG, "10_a dog/y.txt": "y!", "2_cat_b/n/z.jpg": JPEG}
    rows = '{"file_name": "../0.jpg", "text": "by row"}'
    make(tmp_path, **files, **{"5_m/metadata.jsonl": rows, "other/3_x/z.jpg": JPEG, "0.jpg": JPEG})
    items = [item for _, item in read_image_folder(tmp_path)]
    assert [(item.image.name, item.caption, item.repeats, item.class_token) for item in items] == [
        ("0.jpg", None, 1, None),
        ("x.jpg", "a dog", 10, "a dog"),
        ("y.jpg", "y!", 10, "a dog"),
        ("z.jpg", "cat_b", 2, "cat_b"),
        ("0.jpg", "by row", 5, "m"),
        ("z.jpg", None, 1, None),
    ]


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    make(tmp_path, **{"in/a/x.jpg": JPEG, "out/y.jpg": JPEG})
    (tmp_path / "in/a/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/b").symlink_to(tmp_path / "out")
    (tmp_path / "in/c").symlink_to(tmp_path / "out")
    assert [where for where, _ in found(tmp_path / "in")] == ["a/x.jpg", "b/y.jpg", "c/y.jpg"]


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    make(tmp_path, **{"a.jpg": JPEG})
    (tmp_path / "b").symlink_to("b")
    assert found(tmp_path) == [("a.jpg", None)]


def test_what_comes_from_windows(tmp_path: Path) -> None:
    row = json.dumps({"file_name": "in\\x.jpg", "text": "by row"})
    make(tmp_path, **{"A.JPG": JPEG, "A.TXT": "hello\r\n", "rows/metadata.jsonl": row, "rows/in/x.jpg": JPEG})
    assert found(tmp_path) == [("A.JPG", "hello"), ("rows/metadata.jsonl:1", "by row")]


def test_reading_is_lazy(tmp_path: Path) -> None:
    make(tmp_path, **{"a.jpg": JPEG, "a.txt": "one", "b.jpg": JPEG, "b.txt": "before"})
    items = read_image_folder(tmp_path)
    assert next(items)[1].caption == "one"
    make(tmp_path, **{"b.txt": "after"})
    assert next(items)[1].caption == "after"


@pytest.mark.parametrize("name", ["missing", "file"])
def test_folder_that_is_none(tmp_path: Path, name: str) -> None:
    make(tmp_path, file="")
    with pytest.raises(NotADirectoryError, match=f"{name}: not a folder"):
        read_image_folder(tmp_path / name)


def test_folder_as_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "2_a dog/x.jpg": JPEG,
        "2_a dog/y.jpg": b"y",
        "2_a dog/y.txt": "y!",
        "a.jpg": b"a",
        "e.jpg": b"",
        "e.txt": "",
    }
    make(tmp_path, **files, **{"m/metadata.jsonl": '{"file_name": "../a.jpg", "text": ["1", "2"], "mask": "../a.jpg"}'})
    expected = [
        (1, BadRecord(NO_CAPTION, str(tmp_path / "a.jpg"))),
        (2, BadRecord("empty image", str(tmp_path / "e.jpg"))),
        (3, Record(JPEG, "a dog")),
        (4, Record(b"y", "y!")),
        (5, Record(b"a", "1", {"mask": tmp_path / "m/../a.jpg"}, ("2",))),
        (6, Record(JPEG, "a dog")),
        (7, Record(b"y", "y!")),
    ]
    assert list(read_folder_part(tmp_path)) == expected
    opened = []
    monkeypatch.setattr("ppsd.formats.image_folder.read_image_file", lambda path: opened.append(path.name) or b"?")
    assert [n for n, _ in read_folder_part(tmp_path, 2, every=3, offset=0)] == [4, 7]
    assert opened == ["y.jpg", "y.jpg"]


def test_folder_part_that_cannot_be_read_is_one_bad_record(tmp_path: Path) -> None:
    make(tmp_path, **{"a/metadata.csv": "file_name,text\n", "a/metadata.jsonl": "", "file": "", "empty/note": ""})
    for name, reason in (("a", "unreadable part"), ("file", "unreadable part"), ("empty", "empty part")):
        found = list(read_folder_part(tmp_path / name, 5, every=3, offset=2))
        assert [(n, bad.reason) for n, bad in found] == [(1, reason)]


def test_image_file_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bytes, "MAX_IMAGE_BYTES", 10)
    make(tmp_path, a=b"x" * 10, b=b"x" * 11)
    assert image_bytes.read_image_file(tmp_path / "a") == b"x" * 10
    bad = BadRecord("image file too large", f"{tmp_path / 'b'}: 11 bytes, the limit is 10")
    assert image_bytes.read_image_file(tmp_path / "b") == bad
    assert image_bytes.read_image_file(tmp_path / "c").reason == "unreadable image"
