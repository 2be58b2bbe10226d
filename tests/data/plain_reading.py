"""LAION parts read in the plainest way, by the standard library alone: what ppsd's reader is compared with."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Optional

from ppsd.types import Record


def lines_of(text: bytes) -> list[Optional[Record]]:
    """The lines of a laion400m part; None for one that holds no image."""
    lines = text.split(b"\n")
    if lines[-1] == b"":
        del lines[-1]
    return [_record(line[:-1] if line.endswith(b"\r") else line) for line in lines]


def _record(line: bytes) -> Optional[Record]:
    columns = line.split(b"\t")
    if len(columns) < 3:
        return None
    try:
        return Record(base64.b64decode(columns[2], validate=True), _text(columns[0]))
    except (binascii.Error, UnicodeDecodeError):
        return None


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("gb18030")


def inflated(data: bytes) -> bytes:
    """All that can be had from a gzip file, damaged or not, its checksum unchecked."""
    inflate = zlib.decompressobj(wbits=31)
    text = b""
    for i in range(len(data)):
        try:
            text += inflate.decompress(data[i : i + 1])
        except zlib.error:
            break
        if inflate.eof:
            inflate = zlib.decompressobj(wbits=31)
    return text
