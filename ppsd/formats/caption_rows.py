"""Captions of a folder's images as the rows of its metadata.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.caption_files import ImageCaption, ImageFile, Items, image_files
from ppsd.formats.extras import split_row
from ppsd.formats.image_folder import metadata_file, repeats_of
from ppsd.formats.image_folder_writer import METADATA
from ppsd.formats.items import IMAGE_COLUMNS, MISSING_IMAGE, NO_IMAGE_PATH
from ppsd.formats.lines import json_line, parse_object, text_lines
from ppsd.types import BadRecord

REPEATED_IMAGE = "image of an earlier row"
JOURNAL = ".captions.jsonl"
"""New captions until the file is written, which is at the end."""


class MetadataCaptions:
    """Rows keep their other columns and their order; images that are in no row get one when they have a caption.
    Where several rows name one image, the first is meant, and the others stay as they are.

    Left out are images that a row names as the condition, the mask or the depth of another. Captions in files beside
    images, which nobody reads once there is metadata, go into the rows. New captions are kept in a hidden file until
    metadata.jsonl is written as a whole, so a process that is killed loses none. For one process at a time.

    Raises ValueError for metadata.csv, for metadata in a subfolder, for folders named like `10_a dog`, which would not
    be repeated any more, and for a line that is no JSON object.
    """

    def __init__(self, folder: PathLike, recursive: bool = False) -> None:
        self._folder = Path(folder)
        images = [image for _, found in self._walk(recursive) for image in found]
        self._numbers, self._rows = _read_rows(self._folder / METADATA)
        self._first = _first_rows(self._rows)
        in_rows = {os.path.abspath(self._folder / name) for name in self._first.keys() | _conditions(self._rows)}
        self._others = [image for image in images if os.path.abspath(image.path) not in in_rows]
        self._new = _read_journal(self._folder / JOURNAL)
        for left_over in self._folder.glob(f".{METADATA}.{'[0-9a-f]' * 8}.tmp"):  # of a process that was killed
            left_over.unlink()

    def _walk(self, recursive: bool) -> Iterator[tuple[Path, list[ImageFile]]]:
        has_rows = (self._folder / METADATA).is_file()
        for folder, images in image_files(self._folder, recursive):
            found = metadata_file(folder)
            if found is not None and found.name != METADATA:
                raise ValueError(f"{found}: captions are added to {METADATA}; write that file in its place")
            if found is not None and folder != self._folder:
                raise ValueError(f"{found}: would not be read beside {self._folder / METADATA}; caption {folder} alone")
            if not has_rows and folder.parent == self._folder and repeats_of(folder) != (1, None):
                raise ValueError(
                    f"{folder}: its name says repeats, which are not read beside {METADATA}; --output sidecar keeps"
                    " them, or caption each such folder alone"
                )
            yield folder, images

    def items(self) -> Items:
        place = self._folder / METADATA
        for at, (line, row) in enumerate(zip(self._numbers, self._rows)):
            name, where = _name(row), f"{place}:{line}"
            if name is None:
                yield where, BadRecord(NO_IMAGE_PATH, f"no path under 'file_name'; keys are {', '.join(row) or 'none'}")
            elif not (self._folder / name).is_file():
                yield where, BadRecord(MISSING_IMAGE, str(self._folder / name))
            elif (first := self._first[name]) != at:
                yield where, BadRecord(REPEATED_IMAGE, f"{name} is in line {self._numbers[first]} already")
            else:
                yield where, self._item(name, self._folder / name, _caption(row))
        for image in self._others:
            yield str(image.path), self._item(image.name, image.path, image.caption())

    def _item(self, name: str, path: Path, caption: Union[str, BadRecord, None]) -> ImageCaption:
        return ImageCaption(name, path, self._new.get(name, caption), name in self._new)

    def obstacle(self, name: str) -> Optional[BadRecord]:
        """Nothing is read before a row."""
        return None

    def write(self, name: str, caption: str) -> None:
        self._new[name] = caption
        with open(self._folder / JOURNAL, "ab") as journal:
            journal.write(json_line({"file_name": name, "text": caption}))

    extend = write

    def finish(self) -> None:
        rows = list(self._rows)
        for name in self._new.keys() & self._first.keys():
            rows[self._first[name]] = _with_caption(rows[self._first[name]], self._new[name])
        for image in self._others:
            caption = self._new.get(image.name, image.caption())
            if isinstance(caption, str):
                rows.append({"file_name": image.name, "text": caption})
        if rows != self._rows:
            with atomic_write(self._folder / METADATA) as file:
                file.writelines(map(json_line, rows))
        (self._folder / JOURNAL).unlink(missing_ok=True)


def _read_rows(path: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """The numbers of the lines, and the objects in them."""
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return numbers, rows
    with open(path, "rb") as file:
        for number, text in text_lines(file):
            row = text if isinstance(text, BadRecord) else parse_object(text) if text.strip() else None
            if isinstance(row, BadRecord):
                raise ValueError(f"{path}:{number}: {row.reason}: {row.detail}; captions are added to rows of JSON")
            if row is not None:
                numbers.append(number)
                rows.append(row)
    return numbers, rows


def _name(row: Mapping[str, Any]) -> Optional[str]:
    """The path of a row's image, as image_files names it."""
    name = row.get("file_name")
    return Path(name.replace("\\", "/")).as_posix() if isinstance(name, str) and name else None


def _first_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Of each image the number of the row that names it first."""
    found: dict[str, int] = {}
    for number, row in enumerate(rows):
        if (name := _name(row)) is not None:
            found.setdefault(name, number)
    return found


def _with_caption(row: Mapping[str, Any], caption: str) -> dict[str, Any]:
    """The row with another caption; of a list the first is meant, and the others stay."""
    text = row.get("text")
    return {**row, "text": [caption, *text[1:]] if isinstance(text, list) and text else caption}


def _caption(row: Mapping[str, Any]) -> Optional[str]:
    split = split_row(row, "text")
    return None if isinstance(split, BadRecord) else split[0]


def _conditions(rows: list[dict[str, Any]]) -> set[str]:
    paths = (row.get(column) for row in rows for column in IMAGE_COLUMNS)
    return {Path(path.replace("\\", "/")).as_posix() for path in paths if isinstance(path, str)}


def _read_journal(path: Path) -> dict[str, str]:
    """The captions that a run before has left; a line that was cut off is taken back."""
    if not path.is_file():
        return {}
    with open(path, "r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        file.truncate(whole)
    rows = [json.loads(line) for line in data[:whole].splitlines()]
    return {row["file_name"]: row["text"] for row in rows}
