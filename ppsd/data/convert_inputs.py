"""What `tools/convert_dataset.py --input` may name, as sources of records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Optional, Union

from ppsd.data.converting import AnySource, ItemSource, PartSource
from ppsd.formats.filelist import FILELIST_SUFFIX, LIST_SUFFIX, read_file_list
from ppsd.formats.image_folder import read_image_folder, repeated
from ppsd.formats.items import IMAGE_COLUMNS, FolderItem
from ppsd.formats.jsonl import read_jsonl
from ppsd.formats.urls import is_url
from ppsd.types import BadRecord

IMAGES_PER_SOURCE = 1000
_PART_NAMES = (r".+\.(tar|tar\.gz|tgz)", r".+\.parquet", r"part-\d+(\.gz)?")
"""Kinds of files in a folder of parts; of the first kind that is there all are taken. img2dataset puts a parquet file
with the meta alone beside each tar."""

Items = Iterable[tuple[str, Union[FolderItem, BadRecord]]]


def open_inputs(
    inputs: Sequence[str],
    output: Path,
    per_part: Optional[int] = None,
    image_column: Optional[str] = None,
    caption_column: Optional[str] = None,
) -> tuple[Iterator[AnySource], int | None]:
    """The sources of the inputs one after the other, and how many they are when all of them are parts.

    A part that is named more than once counts once; images come in sources of per_part. Raises OSError and ValueError
    for an input that is not there or cannot be a list, and for one in the folder `output`, which is written to.
    """
    count: int | None = 0
    opened: list[Iterable[AnySource]] = []
    for text in inputs:
        parts = parts_of(text, output)
        if parts is None:
            check_apart(text, output, inside=True)
            opened.append(_item_sources(text, per_part or IMAGES_PER_SOURCE, image_column, caption_column))
        else:
            opened.append(PartSource(part, image_column, caption_column) for part in parts)
        count = None if count is None or parts is None else count + len(parts)
    return (source for sources in opened for source in sources), count


def parts_of(text: str, output: Path) -> list[str] | None:
    """The parts that an input names; None where it is one of images."""
    if text.endswith((FILELIST_SUFFIX, LIST_SUFFIX)):
        parts = list(dict.fromkeys(part for source in read_file_list(text) for part in source.parts))
    elif is_url(text):
        parts = [text]
    elif os.path.isdir(text):
        names = _part_names(text)
        if not names:
            check_apart(text, output, inside=True)
            file_list = own_list(text)
            return None if file_list is None else parts_of(file_list, output)
        parts = [os.path.join(text, name) for name in names]
    elif not os.path.exists(text):
        raise FileNotFoundError(f"--input {text}: there is no such file or folder")
    elif text.endswith(".jsonl"):
        return None
    else:
        parts = [text]
    for folder in {os.path.dirname(part) for part in parts if not is_url(part)}:
        check_apart(folder, output, inside=False)
    return parts


def _part_names(folder: str) -> list[str]:
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    for pattern in _PART_NAMES:
        found = [name for name in names if re.fullmatch(pattern, name) and os.path.isfile(os.path.join(folder, name))]
        if found:
            return found
    return []


def own_list(folder: str) -> str | None:
    """The list of a folder that one of the tools has written (ppsd.formats.layout). Raises ValueError for several."""
    lists = sorted(map(str, Path(folder, "filelist").glob(f"*{LIST_SUFFIX}")))
    if len(lists) > 1:
        raise ValueError(f"--input {folder}: has several lists; name one of {', '.join(lists)}")
    return lists[0] if lists else None


def check_apart(folder: str, output: Path, inside: bool) -> None:
    """Refuse to read from a folder that is written to; `inside`: nor from one above it, nor from one of its parts."""
    read, written = Path(os.path.realpath(folder)), Path(os.path.realpath(output))
    if read == written or (inside and (read in written.parents or written in read.parents)):
        raise ValueError(
            f"--input {folder}: what is written to {output} would lie in it or replace it; choose another output folder"
        )


def _item_sources(
    path: str, size: int, image_column: Optional[str], caption_column: Optional[str]
) -> Iterator[AnySource]:
    items = iter(_items(path, image_column, caption_column))
    while chunk := tuple(islice(items, size)):
        yield ItemSource(chunk)


def _items(path: str, image_column: Optional[str], caption_column: Optional[str]) -> Items:
    if os.path.isdir(path):
        columns = image_column or "file_name", caption_column or "text"
        return repeated(lambda: read_image_folder(path, *columns, IMAGE_COLUMNS))
    return read_jsonl(path, image_column or "image", caption_column or "caption", IMAGE_COLUMNS)
