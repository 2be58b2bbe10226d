"""Reading a part of any format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Callable, Optional, Union

from ppsd.formats.atomic import PathLike
from ppsd.formats.image_folder import read_folder_part
from ppsd.formats.inflate import GZIP_MAGIC, PIECE_BYTES, inflated_head
from ppsd.formats.laion import DIALECTS, UNREADABLE_PART, read_lines, read_part
from ppsd.formats.lines import excerpt
from ppsd.formats.opening import open_input
from ppsd.formats.parquet import read_parquet
from ppsd.formats.tar import BLOCK, is_tar
from ppsd.formats.urls import is_url, last_name
from ppsd.formats.webdataset import read_members, read_tar
from ppsd.types import BadRecord, LatentRecord, Record

DATA_FORMATS = (*DIALECTS, "webdataset", "parquet", "image_folder", "latents")
UNKNOWN_FORMAT = "unknown format"

PARQUET_MAGIC = b"PAR1"
_SUFFIXES = {
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
    ".parquet": "parquet",
    ".safetensors": "latents",
}
_NO_PART = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"7z\xbc\xaf": "a 7z archive",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"RIFF": "a RIFF file (WebP?)",
    b"\x80\x02": "a pickle",
}

Line = tuple[int, Union[Record, LatentRecord, BadRecord]]


def read_any(
    path: PathLike,
    start: int = 0,
    *,
    data_format: str = "auto",
    every: int = 1,
    offset: int = 0,
    image_column: Optional[str] = None,
    caption_column: Optional[str] = None,
    more_images: Sequence[str] = (),
) -> Iterator[Line]:
    """The records of a part with their numbers from 1, as `ppsd.formats.laion.read_part` gives them.

    more_images: names of further images that the meta shall have, as bytes, or as paths in a folder of images.
    `auto` tells the format by the content: a folder is one of images. Raises ValueError for an unknown data_format.
    """
    if data_format not in DATA_FORMATS:
        raise ValueError(f"data format {data_format!r}: expected one of {', '.join(DATA_FORMATS)}")
    assert start >= 0
    assert 0 <= offset < every
    chosen: dict[str, Any] = {"every": every, "offset": offset}
    columns: dict[str, Any] = {"image_column": image_column, "caption_column": caption_column}
    columns["more_images"] = more_images
    if data_format == "auto":
        return _read_auto(path, start, chosen, columns)
    return _read_as(data_format, path, start, chosen, columns)


def _read_as(
    data_format: str, path: PathLike, start: int, chosen: dict[str, Any], columns: dict[str, Any]
) -> Iterator[Line]:
    if data_format in DIALECTS:
        return read_part(path, start, data_format, **chosen, more_images=columns["more_images"])
    if data_format == "latents":
        from ppsd.formats.latents import read_latents  # imports numpy, which other parts do without

        return read_latents(path, start, **chosen)
    readers: dict[str, Callable[..., Iterator[Line]]] = {
        "webdataset": read_tar,
        "parquet": read_parquet,
        "image_folder": read_folder_part,
    }
    return readers[data_format](path, start, **chosen, **columns)


def _read_auto(path: PathLike, start: int, chosen: dict[str, Any], columns: dict[str, Any]) -> Iterator[Line]:
    if not is_url(os.fspath(path)) and os.path.isdir(path):
        yield from _read_as("image_folder", path, start, chosen, columns)
        return
    by_name = format_by_name(path)
    if by_name in ("parquet", "latents"):  # which are not read from their beginning
        yield from _read_as(by_name, path, start, chosen, columns)
        return
    try:
        raw = open_input(path)
    except OSError as error:
        yield 1, BadRecord(UNREADABLE_PART, error.strerror or str(error))
        return
    with raw:
        yield from _read_opened(raw, path, start, chosen, columns)


def _read_opened(
    raw: BinaryIO, path: PathLike, start: int, chosen: dict[str, Any], columns: dict[str, Any]
) -> Iterator[Line]:
    try:
        head = raw.read(PIECE_BYTES)
    except OSError as error:
        yield 1, BadRecord(UNREADABLE_PART, error.strerror or str(error))
        return
    found = format_by_content(head) or format_by_name(path) or "laion"
    if found == "laion":
        yield from read_lines(raw, head, start, "auto", **chosen, more_images=columns["more_images"])
    elif found == "webdataset":
        yield from read_members(raw, head, start, **chosen, **columns)
    elif found in DATA_FORMATS:
        yield from _read_as(found, path, start, chosen, columns)
    else:
        yield 1, BadRecord(UNKNOWN_FORMAT, f"this is {found}: it begins with {excerpt(head, 16)}")


def format_by_content(head: bytes) -> str | None:
    """What the first bytes of a file say: a data format, what else it is, or None when they do not say."""
    inside = inflated_head(head, BLOCK) if head.startswith(GZIP_MAGIC) else head
    if is_tar(inside):
        return "webdataset"
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 2**32:
        return "latents"
    return next((what for magic, what in _NO_PART.items() if head.startswith(magic)), None)


def format_by_name(path: PathLike) -> str | None:
    """What the end of a file's name says, None when it does not say."""
    name = last_name(os.fspath(path)).partition("?")[0].lower()
    return next((found for suffix, found in _SUFFIXES.items() if name.endswith(suffix)), None)
