"""Which image the tags of a file are for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppsd.data.tag_names import match_tags

NAMES = ["1.jpg", "2.v2.png", "sub/1.jpg", "sub/3.jpg"]


def match(folder: Path, *keys: str) -> tuple[dict[str, str], list[str]]:
    """The key that each image got, and the keys left."""
    found, left = match_tags({key: (key,) for key in keys}, NAMES, folder)
    return {name: tags[0] for name, tags in found.items()}, left


def test_paths_relative_to_the_folder_with_or_without_extension(tmp_path: Path) -> None:
    keys = ("1.jpg", "sub/1", "sub\\3.jpg", "2.v2", "4.jpg")
    assert match(tmp_path, *keys) == (
        {"1.jpg": "1.jpg", "sub/1.jpg": "sub/1", "sub/3.jpg": "sub\\3.jpg", "2.v2.png": "2.v2"},
        ["4.jpg"],
    )


def test_absolute_paths_here_and_elsewhere(tmp_path: Path) -> None:
    here, there = str(tmp_path / "sub" / "1.jpg"), "/mnt/other/photos/sub/3.jpg"
    assert match(tmp_path, here, there, "C:\\photos\\2.v2.png") == (
        {"sub/1.jpg": here, "sub/3.jpg": there, "2.v2.png": "C:\\photos\\2.v2.png"},
        [],
    )
    parent = f"{tmp_path.name}/1.jpg"
    assert match(tmp_path, parent) == ({"1.jpg": parent}, [])


def test_bare_names_find_images_of_subfolders(tmp_path: Path) -> None:
    assert match(tmp_path, "3.jpg", "2.v2.png") == ({"sub/3.jpg": "3.jpg", "2.v2.png": "2.v2.png"}, [])
    assert match(tmp_path, "3.png", "2.png", "2.v2.jpg") == ({}, ["2.png", "2.v2.jpg", "3.png"])
    assert match(tmp_path, "1.jpg") == ({"1.jpg": "1.jpg"}, []), "to the letter, so not for sub/1.jpg"


def test_what_may_be_meant_for_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"either may be meant for sub/3.jpg; give paths relative"):
        match(tmp_path, "/a/sub/3.jpg", "/b/sub/3.jpg")
    with pytest.raises(ValueError, match=r"tags for 1: a/1.jpg and b/1.jpg may be meant"):
        match_tags({"1": ("x",)}, ["a/1.jpg", "b/1.jpg"], tmp_path)


def test_two_names_of_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tags for 1.jpg and for ./1.jpg: both name one file"):
        match(tmp_path, "1.jpg", "./1.jpg")


def test_many_folders_with_the_same_names_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not each with each: 30 000 images in 300 folders took a minute."""
    names = [f"{folder}/{number}.jpg" for folder in range(200) for number in range(10)]
    looked: list[str] = []
    splitext = os.path.splitext

    def count(path: str) -> tuple[str, str]:
        looked.append(path)
        return splitext(path)

    monkeypatch.setattr(os.path, "splitext", count)
    tags = {f"/mnt/other/{name}": (name,) for name in names}
    found, left = match_tags(tags, names, tmp_path)
    assert (found, left) == ({name: (name,) for name in names}, [])
    assert len(looked) <= 20 * len(names)
