"""Files of tags: each form that taggers write, and what is wrong with a file by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ppsd.formats.tags_file import read_tags

CAT = ("cat", "red mat")


@pytest.mark.parametrize(
    "value",
    [
        "cat, red mat",
        " cat ,, red mat,cat",
        ["cat", "red mat"],
        {"red mat": 0.4, "cat": 0.98},
        {"tags": "cat, red mat", "image_size": [64, 64]},
        {"tags": ["cat", "red mat"], "caption": "not this"},
        {"tags": {"red mat": 1, "cat": 2}},
    ],
)
def test_values_of_json(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "tags.json"
    file.write_text(json.dumps({"1.jpg": value, "sub/2": "dog"}))
    assert read_tags(file) == {"1.jpg": CAT, "sub/2": ("dog",)}
    file.write_text(json.dumps([{"image_path": "1.jpg", "tags": value}, {"file_name": "sub/2", "text": "dog"}]))
    assert read_tags(file) == {"1.jpg": CAT, "sub/2": ("dog",)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"file_name": "1.jpg", "tags": "cat, red mat"}\n\n{"image": "2.jpg", "tags": []}\n'),
        ("a.csv", '\ufefffile_name,tags\n1.jpg,"cat, red mat"\n2.jpg,\n'),
        ("a.csv", 'id,image,caption\n7,1.jpg,"cat,red mat"\n8,2.jpg,""\n'),
        ("a.txt", "1.jpg: cat, red mat\n\n2.jpg:\n"),
        ("a.tsv", "1.jpg\tcat, red mat\r\n2.jpg\t\r\n"),
    ],
)
def test_files_of_lines(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode())
    assert read_tags(file) == {"1.jpg": CAT, "2.jpg": ()}


def test_other_line_separators_are_part_of_a_tag(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"file_name": "1.jpg", "tags": "a\u2028b"}\n')
    (tmp_path / "a.csv").write_text('file_name,tags\n1.jpg,"a\u2028b"\n')
    assert read_tags(tmp_path / "a.jsonl") == read_tags(tmp_path / "a.csv") == {"1.jpg": ("a\u2028b",)}


def test_text_keeps_colons_and_other_encodings(tmp_path: Path) -> None:
    file = tmp_path / "tags.txt"
    file.write_bytes("C:\\data\\1.jpg: rating: safe, 猫咪在垫子上\n".encode("gb18030"))
    assert read_tags(file) == {"C:\\data\\1.jpg": ("rating: safe", "猫咪在垫子上")}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "a.json: no JSON"),
        ("a.json", '"cat"', "an object of names and tags is expected"),
        ("a.json", '{"1.jpg": 7}', "a.json: 1.jpg: '7' where a text like"),
        ("a.json", '{"1.jpg": {"cat": "high"}}', "a.json: 1.jpg: .* where a text like"),
        ("a.json", '{"1.jpg": "\\ud800"}', "UTF-8 can hold"),
        ("a.json", "{}", "no tags in it"),
        ("a.json", "[3]", "entry 0: columns like file_name and tags"),
        ("a.jsonl", '{"file_name": "1.jpg"}', "a.jsonl:1: columns like .* there are file_name"),
        ("a.jsonl", '{"file_name": "1.jpg", "tags": ""}\nx', "a.jsonl:2: no JSON"),
        ("a.csv", "1.jpg,cat\n2.jpg,dog\n", "a.csv:2: columns like .* there are 1.jpg, cat"),
        ("a.csv", 'file_name,tags\n1.jpg,"cat\n', "a.csv:2: no CSV"),
        ("a.txt", "1.jpg: cat\n2.jpg dog\n", "a.txt:2: '2.jpg dog' where 'NAME: cat, mat' is expected"),
        ("a.txt", "1.jpg: cat\n1.jpg: dog\n", "a.txt:2: 1.jpg comes twice"),
        ("a.txt", "", "no tags in it"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_tags(tmp_path / name)
