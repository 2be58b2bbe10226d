"""LAION-format part files, plain or gzip: one example a line, tab separated, the image as base64.

laion400m: caption, placeholder, image. laion_aes: JSON with the caption in column 2, the image in column 5, counted
from 0. Further columns are ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from gzip import BadGzipFile, GzipFile
from typing import BinaryIO, cast

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.lines import (
    MAX_LINE_BYTES,
    caption_of,
    decode_text,
    excerpt,
    parse_object,
    read_line,
    skip_line,
    strip_ending,
    too_long,
)
from ppsd.types import BadRecord, Record

DIALECTS = ("auto", "laion400m", "laion_aes")
PLACEHOLDER = b"NONE"
GZIP_MAGIC = b"\x1f\x8b"

UNREADABLE_PART = "unreadable part"
EMPTY_PART = "empty part"
TRUNCATED_GZIP = "truncated gzip"
CORRUPT_GZIP = "corrupt gzip"
TOO_FEW_COLUMNS = "too few columns"
BAD_BASE64 = "invalid base64"
EMPTY_IMAGE = "empty image"

Line = tuple[int, "Record | BadRecord"]


def read_part(
    path: PathLike,
    start: int = 0,
    dialect: str = "auto",
    every: int = 1,
    offset: int = 0,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Line]:
    """The records of a part with their line numbers, which count from 1.

    The first `start` lines are passed over, and of the others all but those with (line_no - 1) % every == offset; a
    line that is passed over is not decoded. What is wrong with a line is a BadRecord in its place. A part that cannot
    be read (on) ends with one BadRecord at the line that could not be read, whatever `every` and `offset`.

    Raises ValueError for an unknown dialect.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect!r}: expected one of {', '.join(DIALECTS)}")
    assert start >= 0
    assert 0 <= offset < every
    return _read(path, start, dialect, every, offset, max_line_bytes)


def _read(path: PathLike, start: int, dialect: str, every: int, offset: int, max_line_bytes: int) -> Iterator[Line]:
    line_no = 0
    try:
        with open(path, "rb", buffering=2**17) as raw, _inflated(raw) as file:
            while True:
                if line_no < start or line_no % every != offset:
                    if not skip_line(file):
                        break
                    line_no += 1
                    continue
                line = read_line(file, max_line_bytes)
                if line == b"":
                    break
                line_no += 1
                yield line_no, too_long(max_line_bytes) if line is None else parse_line(strip_ending(line), dialect)
        if line_no == 0:
            yield 1, BadRecord(EMPTY_PART, "no line in it")
    except EOFError:
        yield line_no + 1, BadRecord(TRUNCATED_GZIP, f"the file ends after {line_no} whole lines")
    except (zlib.error, BadGzipFile) as error:
        yield line_no + 1, BadRecord(CORRUPT_GZIP, f"{error}, after {line_no} whole lines")
    except OSError as error:
        yield line_no + 1, BadRecord(UNREADABLE_PART, error.strerror or str(error))


def _inflated(raw: BinaryIO) -> BinaryIO:
    """`raw`, or what is in it when it holds gzip; told by its first bytes, not by a name."""
    magic = raw.peek(2)[:2]  # type: ignore[attr-defined]  # open() gives a BufferedReader
    return cast(BinaryIO, GzipFile(fileobj=raw, mode="rb")) if magic == GZIP_MAGIC else raw


def parse_line(line: bytes, dialect: str = "auto") -> Record | BadRecord:
    """One line of a part, without its line ending."""
    columns = line.split(b"\t", 6)
    aes = dialect == "laion_aes" or (dialect == "auto" and len(columns) > 2 and columns[2].lstrip().startswith(b"{"))
    needed = 6 if aes else 3
    if len(columns) < needed:
        return BadRecord(TOO_FEW_COLUMNS, f"{len(columns)} of {needed}: {excerpt(line)}")
    caption = _aes_caption(columns[2]) if aes else decode_text(columns[0])
    if isinstance(caption, BadRecord):
        return caption
    image = _decode_image(columns[5 if aes else 2])
    return image if isinstance(image, BadRecord) else Record(image, caption)


def _aes_caption(column: bytes) -> str | BadRecord:
    text = decode_text(column)
    row = text if isinstance(text, BadRecord) else parse_object(text)
    return row if isinstance(row, BadRecord) else caption_of(row, "caption_en", "blip_caption_en")


def _decode_image(column: bytes) -> bytes | BadRecord:
    try:
        image = base64.b64decode(column, validate=True)
    except binascii.Error as error:
        return BadRecord(BAD_BASE64, f"{error}, in {len(column)} characters: {excerpt(column)}")
    return image or BadRecord(EMPTY_IMAGE, "no byte in the image column")


def write_part(path: PathLike, records: Iterable[Record], gzip: bool = False) -> int:
    """Write a laion400m part, whole or not at all; returns the number of records.

    The bytes are a function of the records. Each run of tabs and line breaks in a caption becomes one space.
    """
    count = 0
    with atomic_write(path) as file, _deflated(file) if gzip else nullcontext(file) as out:
        for record in records:
            out.write(encode_line(record))
            count += 1
    return count


def _deflated(file: BinaryIO) -> BinaryIO:
    """gzip without the two fields that differ from run to run: file name and time."""
    return cast(BinaryIO, GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0))


def encode_line(record: Record) -> bytes:
    """One line of a laion400m part. Raises ValueError for a record that no reader would give back."""
    line = b"\t".join([clean_caption(record.caption).encode(), PLACEHOLDER, base64.b64encode(record.image)]) + b"\n"
    if not record.image or len(line) > MAX_LINE_BYTES:
        wrong = "longer than a line may be" if record.image else "without an image"
        raise ValueError(f"record {wrong}: caption {record.caption[:60]!r}, image of {len(record.image)} bytes")
    return line


def clean_caption(caption: str) -> str:
    """The caption with each run of tabs and line breaks as one space, as a part can hold it."""
    return re.sub(r"[\t\r\n]+", " ", caption)
