"""Folders of images with captions, in the layouts that diffusers, kohya and img2dataset users have.

A folder that holds metadata.jsonl or metadata.csv is what the rows say. Any other is its images, each with the caption
in IMAGE.txt or IMAGE.caption, and then its subfolders. A folder `10_a dog` directly below the one that is read stands
for 10 repeats, and "a dog" is the caption of its images that have none of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, Union

from ppsd.formats.atomic import PathLike
from ppsd.formats.csv_rows import read_csv
from ppsd.formats.image_bytes import read_image_file
from ppsd.formats.items import FolderItem
from ppsd.formats.jsonl import read_jsonl
from ppsd.formats.laion import EMPTY_PART, UNREADABLE_PART
from ppsd.formats.lines import NO_CAPTION, checked_text, decode_text, too_long
from ppsd.types import BadRecord, Record

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
CAPTION_SUFFIXES = (".txt", ".caption", ".TXT", ".CAPTION")
MAX_REPEATS = 10_000
MAX_CAPTION_BYTES = 2**20
_PIECE_BYTES = 2**13
UNREADABLE_CAPTION = "unreadable caption"

Items = Iterator[tuple[str, "FolderItem | BadRecord"]]
Repeats = tuple[int, Optional[str]]
Line = tuple[int, Union[Record, BadRecord]]


def read_folder_part(
    path: PathLike,
    start: int = 0,
    *,
    every: int = 1,
    offset: int = 0,
    image_column: Optional[str] = None,
    caption_column: Optional[str] = None,
    more_images: Sequence[str] = (),
) -> Iterator[Line]:
    """The images of a folder with their numbers, by the contract of ppsd.formats.laion.read_part.

    Repeats are spread out (see `repeated`). An image that is passed over is not opened. Columns other than the image
    and its captions are meta, those of ppsd.formats.items.IMAGE_COLUMNS and of more_images as paths.
    """
    number = 0
    columns = image_column or "file_name", caption_column or "text", more_images
    try:
        items = repeated(lambda: read_image_folder(path, *columns))
        for number, (where, item) in enumerate(items, start=1):
            if number > start and (number - 1) % every == offset:
                yield number, item if isinstance(item, BadRecord) else read_item(where, item)
        if number == 0:
            yield 1, BadRecord(EMPTY_PART, f"no image in {path}")
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else None
        yield number + 1, BadRecord(UNREADABLE_PART, text or str(error))


def read_item(where: str, item: FolderItem) -> Record | BadRecord:
    """The record of an item, of which the image is read but not looked at."""
    if item.caption is None:
        return BadRecord(NO_CAPTION, where)
    image = read_image_file(item.image)
    return image if isinstance(image, BadRecord) else Record(image, item.caption, item.meta, item.more_captions)


def repeated(read: Callable[[], Items]) -> Items:
    """All items as often as their repeats say, spread out: turn n gives those with more than n repeats."""
    turn, turns = 0, 1
    while turn < turns:
        for where, item in read():
            if isinstance(item, BadRecord):
                if turn == 0:
                    yield where, item
                continue
            turns = max(turns, item.repeats)
            if turn < item.repeats:
                yield where, item
        turn += 1


@dataclass(frozen=True)
class _Columns:
    """Names of the columns of metadata files; further images must be in the folder `root`."""

    image: str
    caption: str
    more_images: Sequence[str]
    root: Path


def read_image_folder(
    path: PathLike, image_column: str = "file_name", caption_column: str = "text", more_images: Sequence[str] = ()
) -> Items:
    """The items of a folder in sorted order, each with where it comes from: `file:line`, or the image's path.

    Reads as it goes: one row, or one folder's names, is held at a time. Hidden files and folders are left out. What is
    wrong with an item is a BadRecord. more_images: columns of metadata with further images, beside the usual ones of
    ppsd.formats.items.IMAGE_COLUMNS. Raises OSError for a folder that cannot be read, ValueError for two metadata
    files side by side and for a folder whose name says more than MAX_REPEATS.
    """
    root = Path(path)
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: not a folder; expected a folder of images")
    return _read_folder(root, _Columns(image_column, caption_column, more_images, root), (1, None), frozenset())


def _read_folder(folder: Path, columns: _Columns, repeats: Repeats, above: frozenset[str]) -> Items:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder it lies in
        return
    metadata = metadata_file(folder)
    if metadata is not None:
        read = read_csv if metadata.suffix == ".csv" else read_jsonl
        for where, item in read(metadata, columns.image, columns.caption, columns.more_images, columns.root):
            if isinstance(item, FolderItem) and repeats != (1, None):
                item = replace(item, repeats=repeats[0], class_token=repeats[1])
            yield where, item
        return
    files, folders = listing(folder)
    for name in files:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES:
            yield _with_sidecar(folder / name, stem, files, repeats)
    for name in folders:
        below = repeats if above else repeats_of(folder / name)
        yield from _read_folder(folder / name, columns, below, above | {real})


def metadata_file(folder: Path) -> Path | None:
    found = [folder / name for name in ("metadata.jsonl", "metadata.csv") if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder}: has both metadata.jsonl and metadata.csv; keep one of them")
    return found[0] if found else None


def listing(folder: Path) -> tuple[dict[str, None], list[str]]:
    """Names of the files (a dict, for fast look-up) and of the folders in `folder`, sorted, without the hidden ones."""
    with os.scandir(folder) as entries:
        named = sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
    return {name: None for name, is_dir in named if not is_dir}, [name for name, is_dir in named if is_dir]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to what may not be seen: an error where it is named like an image
        return False


def repeats_of(folder: Path) -> Repeats:
    """What the name of a folder like `10_a dog` says. One that is no UTF-8 is in GB18030, as captions are."""
    name = decode_text(os.fsencode(folder.name))
    match = re.fullmatch(r"(\d+)_(.+)", name, flags=re.DOTALL) if isinstance(name, str) else None
    if match is None:
        return 1, None
    if int(match[1]) > MAX_REPEATS:
        raise ValueError(
            f"{folder}: its name says {match[1]} repeats of each image, the limit is {MAX_REPEATS}; rename it if it is"
            " a date or a number"
        )
    return int(match[1]), match[2].strip()


def _with_sidecar(
    image: Path, stem: str, names: Mapping[str, None], repeats: Repeats
) -> tuple[str, FolderItem | BadRecord]:
    sidecar = next((stem + suffix for suffix in CAPTION_SUFFIXES if stem + suffix in names), None)
    where = str(image)
    if sidecar is None:
        return where, FolderItem(image, repeats[1], {}, *repeats)
    sidecar = where[: -len(image.name)] + sidecar
    caption = read_caption(sidecar)
    if isinstance(caption, BadRecord):
        return sidecar, caption
    return where, FolderItem(image, caption, {}, *repeats)


def read_caption(path: str) -> str | BadRecord:
    """The text of a caption file on one line."""
    try:
        with open(path, "rb", buffering=0) as file:  # there may be many: no buffer for each
            data = b""
            while len(data) <= MAX_CAPTION_BYTES and (piece := file.read(_PIECE_BYTES)):
                data += piece
    except OSError as error:
        return BadRecord(UNREADABLE_CAPTION, error.strerror or str(error))
    text = too_long(MAX_CAPTION_BYTES) if len(data) > MAX_CAPTION_BYTES else decode_text(data)
    if isinstance(text, BadRecord):
        return text
    return checked_text(re.sub(r"\s*[\r\n]+\s*", " ", text.lstrip("\ufeff").strip()))
