"""Tags of images by name, as taggers write them.

    JSON    {"1.jpg": "cat, mat"}; lists, {"cat": 0.98} and {"tags": ...} (kohya's metadata) stand for the text as well
    JSONL   {"file_name": "1.jpg", "tags": "cat, mat"}, one a line
    CSV     file_name,tags with that header
    text    1.jpg: cat, mat (or a tab for the colon), one a line

Names are paths relative to the folder, absolute ones, or those of another machine; with or without the extension.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from ppsd.formats.atomic import PathLike
from ppsd.formats.lines import checked_text, decode_text, excerpt
from ppsd.types import BadRecord

NAME_COLUMNS = ("file_name", "image", "image_path", "filename", "file", "path", "name")
TAG_COLUMNS = ("tags", "tag", "text", "caption")
FORMS = "a text like 'cat, mat', a list of tags, an object of tags and scores, or one with 'tags'"

Entries = Iterator[tuple[str, str, Any]]


def read_tags(path: PathLike) -> dict[str, tuple[str, ...]]:
    """The tags under each name, in their order; of tags with scores, the highest first.

    Raises ValueError, with the file and the line or the name, for what is none of the forms above and for a name that
    comes twice; OSError for a file that cannot be read.
    """
    path = Path(path)
    text = decode_text(path.read_bytes())
    if isinstance(text, BadRecord):
        raise ValueError(f"{path}: {text.detail}")
    read = {".json": _json, ".jsonl": _jsonl, ".csv": _csv}.get(path.suffix.lower(), _text)
    found: dict[str, tuple[str, ...]] = {}
    for where, name, value in read(path, text.lstrip("\ufeff")):
        tags = _tags(value)
        if tags is None:
            raise ValueError(f"{where}: {excerpt(str(value))} where {FORMS} is expected")
        bad = next((tag for tag in tags if isinstance(checked_text(tag), BadRecord)), None)
        if bad is not None:
            raise ValueError(f"{where}: {excerpt(bad)} is no text that UTF-8 can hold")
        if name in found:
            raise ValueError(f"{where}: {name} comes twice; put its tags into one place")
        found[name] = tags
    if not found:
        raise ValueError(f"{path}: no tags in it")
    return found


def _tags(value: Any) -> Optional[tuple[str, ...]]:
    if isinstance(value, Mapping) and isinstance(value.get("tags"), (str, list, Mapping)):
        value = value["tags"]
    if isinstance(value, Mapping):
        if not all(isinstance(score, (int, float)) for score in value.values()):
            return None
        value = sorted(value, key=lambda tag: -value[tag])
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        return None
    return tuple(dict.fromkeys(tag.strip() for tag in value if tag.strip()))


def _json(path: Path, text: str) -> Entries:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield f"{path}: {name}", name, value
    elif isinstance(data, list):
        for number, row in enumerate(data):
            yield from _row(f"{path}: entry {number}", row)
    else:
        raise ValueError(f"{path}: {excerpt(text)} where an object of names and tags is expected")


def _jsonl(path: Path, text: str) -> Entries:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: no JSON: {error}") from error
            yield from _row(f"{path}:{number}", row)


def _csv(path: Path, text: str) -> Entries:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield from _row(f"{path}:{reader.line_num}", row)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.reader.line_num}: no CSV: {error}") from error


def _row(where: str, row: Any) -> Entries:
    """The first usual column of names, and of tags."""
    columns = row if isinstance(row, Mapping) else {}
    name = next((columns[key] for key in NAME_COLUMNS if isinstance(columns.get(key), str)), None)
    tags = next((columns[key] for key in TAG_COLUMNS if columns.get(key) is not None), None)
    if name is None or tags is None:
        found = ", ".join(map(str, columns)) or "none"
        raise ValueError(f"{where}: columns like file_name and tags are expected; there are {found}")
    yield where, name, tags


def _text(path: Path, text: str) -> Entries:
    for number, line in enumerate(text.split("\n"), start=1):
        name, mark, tags = line.partition("\t") if "\t" in line else line.rstrip().partition(": ")
        if not mark and line.rstrip().endswith(":"):
            name, mark = line.rstrip()[:-1], ":"
        if line.strip() and not mark:
            raise ValueError(f"{path}:{number}: {excerpt(line)} where 'NAME: cat, mat' is expected")
        if line.strip():
            yield f"{path}:{number}", name.strip(), tags
