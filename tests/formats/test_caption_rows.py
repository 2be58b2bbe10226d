"""Captions in metadata.jsonl: rows keep what they have, and a process that is cut loses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ppsd.formats import caption_rows
from ppsd.formats.caption_files import ImageCaption
from ppsd.formats.caption_rows import JOURNAL, REPEATED_IMAGE, MetadataCaptions
from ppsd.formats.image_folder import read_image_folder
from ppsd.formats.items import MISSING_IMAGE, NO_IMAGE_PATH, FolderItem
from ppsd.types import BadRecord


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"image")


def write_rows(folder: Path, *rows: Mapping[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_bytes().splitlines()]


def images(store: MetadataCaptions) -> dict[str, object]:
    return {item.name: item.caption for _, item in store.items() if isinstance(item, ImageCaption)}


def test_rows_keep_their_columns_and_images_in_no_row_get_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.edge.png", "b.jpg", "c.jpg", "sub/d.jpg", "sub/e.jpg")
    (tmp_path / "c.txt").write_text("from a file")
    first = {"file_name": "a.jpg", "conditioning_image": "a.edge.png", "score": 7}
    write_rows(tmp_path, first, {"file_name": "sub\\d.jpg", "text": "mine", "captions": ["mine", "other"]})
    store = MetadataCaptions(tmp_path)
    assert images(store) == {"a.jpg": None, "sub/d.jpg": "mine", "b.jpg": None, "c.jpg": "from a file"}
    store.write("a.jpg", "new")
    store.write("b.jpg", "猫")
    store.extend("sub/d.jpg", "mine, too")
    assert rows(tmp_path) == [first, {"file_name": "sub\\d.jpg", "text": "mine", "captions": ["mine", "other"]}]
    store.finish()
    assert rows(tmp_path) == [
        {**first, "text": "new"},
        {"file_name": "sub\\d.jpg", "text": "mine, too", "captions": ["mine", "other"]},
        {"file_name": "b.jpg", "text": "猫"},
        {"file_name": "c.jpg", "text": "from a file"},
    ]
    assert not (tmp_path / JOURNAL).exists()
    read = [item for _, item in read_image_folder(tmp_path)]
    assert [item.caption for item in read if isinstance(item, FolderItem)] == ["new", "mine, too", "猫", "from a file"]


def test_further_captions_of_an_image_are_kept(tmp_path: Path) -> None:
    """Those of later rows, and those of a list."""
    touch(tmp_path, "a.jpg", "b.jpg")
    write_rows(
        tmp_path,
        {"file_name": "a.jpg"},
        {"file_name": "a.jpg", "text": "mine"},
        {"file_name": "b.jpg", "text": ["first", "second"]},
    )
    store = MetadataCaptions(tmp_path)
    bad = {where: item for where, item in store.items() if isinstance(item, BadRecord)}
    assert bad == {f"{tmp_path / 'metadata.jsonl'}:2": BadRecord(REPEATED_IMAGE, "a.jpg is in line 1 already")}
    assert images(store) == {"a.jpg": None, "b.jpg": "first"}
    store.write("a.jpg", "new")
    store.extend("b.jpg", "first, longer")
    store.finish()
    assert [row["text"] for row in rows(tmp_path)] == ["new", "mine", ["first, longer", "second"]]


def test_the_rows_conditions_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{number}.jpg" for number in range(9)))
    write_rows(tmp_path, {"file_name": "0.jpg", "mask": "8.jpg"})
    seen: list[int] = []
    conditions = caption_rows._conditions

    def count(given: list[dict[str, Any]]) -> set[str]:
        seen.append(len(given))
        return conditions(given)

    monkeypatch.setattr(caption_rows, "_conditions", count)
    assert list(images(MetadataCaptions(tmp_path))) == [f"{number}.jpg" for number in range(8)]
    assert seen == [1]


@pytest.mark.parametrize("form", ["{folder}/a.jpg", "sub/../a.jpg", "./a.jpg"])
def test_an_image_gets_no_second_row_however_its_row_names_it(form: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.edge.png", "sub/b.jpg")
    edge = f"{tmp_path}/a.edge.png"
    write_rows(tmp_path, {"file_name": form.format(folder=tmp_path), "conditioning_image": edge, "text": "mine"})
    assert list(images(MetadataCaptions(tmp_path, recursive=True)).values()) == ["mine", None]


def test_names_of_folders_that_say_repeats_are_not_lost(tmp_path: Path) -> None:
    touch(tmp_path, "10_a dog/a.jpg")
    with pytest.raises(ValueError, match=r"10_a dog: its name says repeats.*--output sidecar"):
        MetadataCaptions(tmp_path, recursive=True)
    assert images(MetadataCaptions(tmp_path / "10_a dog")) == {"a.jpg": None}
    write_rows(tmp_path, {"file_name": "10_a dog/a.jpg"})
    assert images(MetadataCaptions(tmp_path, recursive=True)) == {"10_a dog/a.jpg": None}


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".metadata.jsonl.0123abcd.tmp", ".metadata.jsonl.mine.tmp")
    MetadataCaptions(tmp_path)
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".metadata.jsonl.mine.tmp"]


def test_recursive_names_are_relative_to_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/e.jpg")
    store = MetadataCaptions(tmp_path, recursive=True)
    store.write("sub/e.jpg", "deep")
    store.finish()
    assert rows(tmp_path) == [{"file_name": "sub/e.jpg", "text": "deep"}], "a.jpg has no caption, so no row"


def test_captions_survive_until_the_end_however_it_is_cut(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write_rows(tmp_path, {"file_name": "a.jpg", "text": "old"})
    store = MetadataCaptions(tmp_path)
    store.write("a.jpg", "new")
    store.write("b.jpg", "whole\nlines")
    with open(tmp_path / JOURNAL, "ab") as journal:
        journal.write(b'{"file_name": "c.jpg", "te')
    again = MetadataCaptions(tmp_path)
    items = {item.name: (item.caption, item.fresh) for _, item in again.items() if isinstance(item, ImageCaption)}
    assert items == {"a.jpg": ("new", True), "b.jpg": ("whole\nlines", True), "c.jpg": (None, False)}
    again.write("c.jpg", "last")
    MetadataCaptions(tmp_path).finish()
    assert [row["text"] for row in rows(tmp_path)] == ["new", "whole\nlines", "last"]
    assert not any(item.fresh for _, item in MetadataCaptions(tmp_path).items() if isinstance(item, ImageCaption))


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "metadata.jsonl").write_text('{"file_name":"a.jpg",   "text":"kept as it is"}')
    MetadataCaptions(tmp_path).finish()
    assert (tmp_path / "metadata.jsonl").read_text() == '{"file_name":"a.jpg",   "text":"kept as it is"}'


def test_rows_without_an_image_are_named_by_line_and_kept(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    gone, other = {"file_name": "gone.jpg", "text": "x"}, {"image": "a.jpg"}
    (tmp_path / "metadata.jsonl").write_text(f"\n{json.dumps(gone)}\n{json.dumps(other)}\n")
    store = MetadataCaptions(tmp_path)
    bad = {where: item.reason for where, item in store.items() if isinstance(item, BadRecord)}
    file = tmp_path / "metadata.jsonl"
    assert bad == {f"{file}:2": MISSING_IMAGE, f"{file}:3": NO_IMAGE_PATH}
    store.write("a.jpg", "new")
    store.finish()
    assert rows(tmp_path) == [gone, other, {"file_name": "a.jpg", "text": "new"}]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    touch(tmp_path, name)
    store = MetadataCaptions(tmp_path)
    store.write(name, "x")
    MetadataCaptions(tmp_path).finish()
    assert rows(tmp_path) == [{"file_name": name, "text": "x"}]


def test_metadata_that_cannot_be_added_to(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    write_rows(tmp_path / "sub", {"file_name": "b.jpg", "text": "x"})
    assert images(MetadataCaptions(tmp_path)) == {"a.jpg": None}
    with pytest.raises(ValueError, match=r"sub/metadata.jsonl: would not be read beside"):
        MetadataCaptions(tmp_path, recursive=True)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg"}\n{"file_name"')
    with pytest.raises(ValueError, match=r"metadata.jsonl:2: invalid JSON"):
        MetadataCaptions(tmp_path)
    (tmp_path / "metadata.jsonl").rename(tmp_path / "metadata.csv")
    with pytest.raises(ValueError, match=r"metadata.csv: captions are added to metadata.jsonl"):
        MetadataCaptions(tmp_path)
