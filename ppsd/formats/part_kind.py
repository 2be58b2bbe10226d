"""Which format a part is to be written in so that it stays what it was."""

from __future__ import annotations

import os
from typing import NamedTuple

from ppsd.formats.atomic import PathLike
from ppsd.formats.inflate import GZIP_MAGIC, PIECE_BYTES
from ppsd.formats.opening import open_input
from ppsd.formats.parts import format_by_content, format_by_name
from ppsd.formats.urls import is_url

_WRITTEN = ("webdataset", "parquet", "image_folder")


class PartKind(NamedTuple):
    """data_format: laion400m, webdataset, parquet or image_folder; suffix: of the part's name; gzip: whether it is."""

    data_format: str
    suffix: str = ""
    gzip: bool = False


def part_kind(path: PathLike, data_format: str = "auto") -> PartKind:
    """By its content and name, or by what `data_format` says it is.

    laion_aes becomes laion400m, and so does a part that cannot be read.
    """
    if data_format == "image_folder" or (not is_url(os.fspath(path)) and os.path.isdir(path)):
        return PartKind("image_folder")
    by_name = format_by_name(path)
    if data_format == "parquet" or (data_format == "auto" and by_name == "parquet"):
        return PartKind("parquet", ".parquet")
    try:
        with open_input(path) as file:
            head = file.read(PIECE_BYTES)
    except OSError:
        return PartKind("laion400m")
    found = format_by_content(head) or by_name if data_format == "auto" else data_format
    gzip = head.startswith(GZIP_MAGIC)
    if found == "webdataset":
        return PartKind("webdataset", ".tar.gz" if gzip else ".tar", gzip)
    return PartKind("parquet", ".parquet") if found == "parquet" else PartKind("laion400m", ".gz" if gzip else "", gzip)
