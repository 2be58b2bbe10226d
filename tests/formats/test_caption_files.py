"""Captions in files beside images."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppsd.formats.caption_files import OTHER_FILE, SHARED_FILE, ImageCaption, SidecarCaptions
from ppsd.formats.lines import NOT_TEXT
from ppsd.types import BadRecord


def touch(folder: Path, **texts: str) -> None:
    """Files by name, `__` for a dot and `___` for a slash."""
    for name, text in texts.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def found(store: SidecarCaptions) -> dict[str, object]:
    """By the name of the image: its caption, or the reason of a BadRecord by its place."""
    return {
        item.name if isinstance(item, ImageCaption) else where: item.caption
        if isinstance(item, ImageCaption)
        else item.reason
        for where, item in store.items()
    }


def test_images_come_sorted_with_the_caption_that_is_read(tmp_path: Path) -> None:
    touch(tmp_path, b__png="", a__jpg="", a__caption="one\n two", c__WEBP="", c__txt="first", c__caption="second")
    touch(tmp_path, d__md="", __hidden__png="", sub___a__jpg="", sub___deep="")
    assert found(SidecarCaptions(tmp_path)) == {"a.jpg": "one two", "b.png": None, "c.WEBP": "first"}
    assert list(found(SidecarCaptions(tmp_path, recursive=True))) == ["a.jpg", "b.png", "c.WEBP", "sub/a.jpg"]


def test_a_link_to_the_folder_itself_ends(tmp_path: Path) -> None:
    touch(tmp_path, a__jpg="")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list(found(SidecarCaptions(tmp_path, recursive=True))) == ["a.jpg"]


def test_captions_that_are_no_text_and_shared_names(tmp_path: Path) -> None:
    touch(tmp_path, a__jpg="", a__png="", b__jpg="", c__jpg="")
    (tmp_path / "b.txt").write_bytes(b"\xff\xff\xff")
    (tmp_path / "c.txt").mkdir()
    items = dict(SidecarCaptions(tmp_path).items())
    assert items[str(tmp_path / "a.png")] == BadRecord(SHARED_FILE, "a.jpg has the same name but for the extension")
    first = items[str(tmp_path / "b.jpg")]
    assert isinstance(first, ImageCaption)
    assert isinstance(first.caption, BadRecord)
    assert first.caption.reason == NOT_TEXT
    assert items[str(tmp_path / "c.jpg")] == ImageCaption("c.jpg", tmp_path / "c.jpg", None), "c.txt is a folder"


def test_new_and_longer_captions_go_where_they_are_read(tmp_path: Path) -> None:
    touch(tmp_path, a__jpg="", b__jpg="", b__caption="old", c__v2__jpg="")
    store = SidecarCaptions(tmp_path, ".txt")
    store.write("a.jpg", "猫")
    store.write("c.v2.jpg", "x")
    store.extend("b.jpg", "old, new")
    store.finish()
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".txt", ".caption"))
    assert names == ["a.txt", "b.caption", "c.v2.txt"]
    assert found(SidecarCaptions(tmp_path)) == {"a.jpg": "猫", "b.jpg": "old, new", "c.v2.jpg": "x"}
    assert (tmp_path / "a.txt").read_bytes() == "猫\n".encode()


def test_a_file_that_is_read_before_the_new_one_is_an_obstacle(tmp_path: Path) -> None:
    touch(tmp_path, a__jpg="", a__txt="tags", b__jpg="", b__caption="old", c__jpg="")
    store = SidecarCaptions(tmp_path, ".caption")
    assert store.obstacle("a.jpg") == BadRecord(OTHER_FILE, "a.txt is read before a.caption")
    assert store.obstacle("b.jpg") is None
    assert store.obstacle("c.jpg") is None
    assert SidecarCaptions(tmp_path, ".txt").obstacle("b.jpg") is None


def test_metadata_is_where_captions_are_read(tmp_path: Path) -> None:
    touch(tmp_path, a__jpg="", sub___metadata__csv="file_name,text\n")
    assert found(SidecarCaptions(tmp_path)) == {"a.jpg": None}
    with pytest.raises(ValueError, match=r"sub/metadata.csv: the captions of this folder are in it"):
        SidecarCaptions(tmp_path, recursive=True)


def test_what_a_killed_process_was_writing_goes_away(tmp_path: Path) -> None:
    touch(tmp_path, a__jpg="")
    for name in (".a.txt.0123abcd.tmp", ".a.caption.0123abcd.tmp", ".a.jpg.0123abcd.tmp", ".mine.tmp"):
        (tmp_path / name).write_text("half")
    SidecarCaptions(tmp_path)
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".a.jpg.0123abcd.tmp", ".mine.tmp"]
