"""Captions of images as CSV with a header: file_name,text."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Optional

from ppsd.formats.atomic import PathLike
from ppsd.formats.items import FolderItem, item_from_row
from ppsd.formats.lines import text_lines
from ppsd.formats.opening import open_input
from ppsd.types import BadRecord

BAD_CSV = "invalid CSV"


def read_csv(
    path: PathLike,
    image_key: str = "file_name",
    caption_key: str = "text",
    more_images: Sequence[str] = (),
    root: Optional[Path] = None,
) -> Iterator[tuple[str, FolderItem | BadRecord]]:
    """The items of a CSV file, as ppsd.formats.jsonl.read_jsonl gives them. Raises ValueError without a header."""
    path = Path(path)
    keys = (image_key, caption_key, more_images, root)
    with open_input(path) as file:
        rows = _rows(file)
        _, header = next(rows, (1, BadRecord(BAD_CSV, "the file is empty")))
        if isinstance(header, BadRecord):
            raise ValueError(f"{path}:1: expected a header like {image_key},{caption_key}; {header.detail}")
        for line_no, row in rows:
            if not isinstance(row, BadRecord) and len(row) != len(header):
                row = BadRecord(BAD_CSV, f"{len(row)} fields where the header has {len(header)}")
            named = row if isinstance(row, BadRecord) else dict(zip(header, row))
            item = named if isinstance(named, BadRecord) else item_from_row(named, path.parent, *keys)
            yield f"{path}:{line_no}", item


def _rows(file: BinaryIO) -> Iterator[tuple[int, list[str] | BadRecord]]:
    """The rows of a CSV file that are not blank, each with the number of its first line."""
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True)
    while True:
        first = lines.line_no + 1
        try:
            row: list[str] | BadRecord | None = next(reader, None)
        except csv.Error as error:
            row = BadRecord(BAD_CSV, str(error))
        for bad in lines.take_bad():
            first = max(first, bad[0] + 1)
            yield bad
        if row is None:
            return
        if row:
            yield first, row


class _Lines:
    """What csv.reader is given: the lines that are text. The others are put aside."""

    def __init__(self, file: BinaryIO) -> None:
        self.line_no = 0
        self._lines = text_lines(file)
        self._bad: list[tuple[int, BadRecord]] = []

    def __iter__(self) -> Iterator[str]:
        for line_no, text in self._lines:
            self.line_no = line_no
            if isinstance(text, BadRecord):
                self._bad.append((line_no, text))
            else:
                yield text

    def take_bad(self) -> list[tuple[int, BadRecord]]:
        bad, self._bad = self._bad, []
        return bad
