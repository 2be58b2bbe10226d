"""Captions of images as JSON, one object a line: {"image": "folder/1.jpg", "caption": "a cat", ...}."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from ppsd.formats.atomic import PathLike
from ppsd.formats.items import FolderItem, item_from_row
from ppsd.formats.lines import parse_object, text_lines
from ppsd.formats.opening import open_input
from ppsd.types import BadRecord


def read_jsonl(
    path: PathLike,
    image_key: str = "image",
    caption_key: str = "caption",
    more_images: Sequence[str] = (),
    root: Optional[Path] = None,
) -> Iterator[tuple[str, FolderItem | BadRecord]]:
    """The items of a jsonl file, each with its `file:line`, read one line at a time.

    Image paths are relative to the file's folder; of a list of captions the first is taken; blank lines do not count.
    A line that is wrong or whose image is not there is a BadRecord. Raises OSError when the file cannot be read.
    more_images, root: see ppsd.formats.items.item_from_row.
    """
    path = Path(path)
    keys = (image_key, caption_key, more_images, root)
    with open_input(path) as file:
        for line_no, text in text_lines(file):
            if isinstance(text, str) and not text.strip():
                continue
            row = text if isinstance(text, BadRecord) else parse_object(text)
            item = row if isinstance(row, BadRecord) else item_from_row(row, path.parent, *keys)
            yield f"{path}:{line_no}", item
