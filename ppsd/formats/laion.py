"""LAION-format part files, plain or gzip: one example a line, tab separated, the image as base64.

laion400m: caption, placeholder, image. laion_aes: JSON with the caption in column 2, the image in column 5, counted
from 0. Further columns of laion400m are the record's meta (see ppsd.formats.extras): the first may be a JSON object, in
which "captions" is a list of further captions and "columns" a list of names of the columns that follow it, which hold
further images as base64; so are the other keys of laion_aes's JSON.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.base64_bytes import decode_base64
from ppsd.formats.extras import (
    COLUMN_NAMES,
    MAX_META_BYTES,
    LazyMeta,
    extras_json,
    further_captions,
    further_images,
    without,
)
from ppsd.formats.gzip_members import MemberWriter, hop
from ppsd.formats.image_bytes import EMPTY_IMAGE
from ppsd.formats.inflate import GZIP_MAGIC, PIECE_BYTES, CorruptGzip, inflated, pieces
from ppsd.formats.lines import MAX_LINE_BYTES, LineReader, caption_of, decode_text, excerpt, parse_object
from ppsd.formats.opening import open_input
from ppsd.types import BadRecord, Record

DIALECTS = ("auto", "laion400m", "laion_aes")
PLACEHOLDER = b"NONE"

UNREADABLE_PART = "unreadable part"
EMPTY_PART = "empty part"
TRUNCATED_GZIP = "truncated gzip"
CORRUPT_GZIP = "corrupt gzip"
TOO_FEW_COLUMNS = "too few columns"

AES_CAPTIONS = ("caption_en", "blip_caption_en")
_NAMES_COLUMNS = f'"{COLUMN_NAMES}"'.encode()

Line = tuple[int, "Record | BadRecord"]


def read_part(
    path: PathLike,
    start: int = 0,
    dialect: str = "auto",
    every: int = 1,
    offset: int = 0,
    max_line_bytes: int = MAX_LINE_BYTES,
    more_images: Sequence[str] = (),
) -> Iterator[Line]:
    """The records of a part with their line numbers, which count from 1.

    The first `start` lines are passed over, and of the others all but those with (line_no - 1) % every == offset; a
    line that is passed over is not decoded. What is wrong with a line is a BadRecord in its place. A part that cannot
    be read (on) ends with one BadRecord at the line that could not be read, whatever `every` and `offset`.
    more_images: names of the columns of further images that the meta shall have; others are not kept.

    Raises ValueError for an unknown dialect.
    """
    check_dialect(dialect)
    assert start >= 0
    assert 0 <= offset < every
    return _read_path(path, start, dialect, every, offset, max_line_bytes, more_images)


def check_dialect(dialect: str) -> None:
    """Raises ValueError for an unknown dialect."""
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect!r}: expected one of {', '.join(DIALECTS)}")


def _read_path(
    path: PathLike,
    start: int,
    dialect: str,
    every: int,
    offset: int,
    max_line_bytes: int,
    more_images: Sequence[str],
) -> Iterator[Line]:
    try:
        raw = open_input(path)
    except OSError as error:
        yield 1, BadRecord(UNREADABLE_PART, error.strerror or str(error))
        return
    with raw:
        yield from read_lines(raw, b"", start, dialect, every, offset, max_line_bytes, more_images)


def read_lines(
    raw: BinaryIO,
    head: bytes,
    start: int,
    dialect: str,
    every: int,
    offset: int,
    max_line_bytes: int = MAX_LINE_BYTES,
    more_images: Sequence[str] = (),
) -> Iterator[Line]:
    """As read_part, of an open file of which `head` has been read already."""
    line_no = 0
    try:
        head = head or raw.read(PIECE_BYTES)
        packed = head.startswith(GZIP_MAGIC)  # by its first bytes, not by a name
        if packed and start and raw.seekable():
            line_no, head = hop(raw, head, start)
        lines = LineReader(inflated(pieces(raw, head)) if packed else pieces(raw, head))
        while True:
            if line_no < start or line_no % every != offset:
                if not lines.skip():
                    break
                line_no += 1
                continue
            line = lines.read(max_line_bytes)
            if line is None:
                break
            line_no += 1
            yield line_no, line if isinstance(line, BadRecord) else parse_line(line, dialect, more_images)
        if line_no == 0:
            yield 1, BadRecord(EMPTY_PART, "no line in it")
    except EOFError:
        yield line_no + 1, BadRecord(TRUNCATED_GZIP, f"the file ends after {line_no} whole lines")
    except CorruptGzip as error:
        yield line_no + 1, BadRecord(CORRUPT_GZIP, f"{error}, after {line_no} whole lines")
    except OSError as error:
        yield line_no + 1, BadRecord(UNREADABLE_PART, error.strerror or str(error))


def parse_line(line: bytes, dialect: str = "auto", more_images: Sequence[str] = ()) -> Record | BadRecord:
    """One line of a part, without its line ending."""
    first = line.find(b"\t")
    second = line.find(b"\t", first + 1) if first >= 0 else -1
    if dialect == "laion_aes" or (dialect == "auto" and second >= 0 and _holds_object(line, second + 1)):
        return _parse_aes(line, more_images)
    if second < 0:
        return BadRecord(TOO_FEW_COLUMNS, f"{1 + (first >= 0)} of 3: {excerpt(line)}")
    caption = decode_text(line[:first])
    if isinstance(caption, BadRecord):
        return caption
    third = line.find(b"\t", second + 1)
    # A slice of the view is not a copy: the base64 of an image is most of the line.
    image = _decode_image(memoryview(line)[second + 1 : third if third >= 0 else len(line)])
    if isinstance(image, BadRecord):
        return image
    columns = _further_columns(line, third + 1, more_images) if third >= 0 else b""
    if not columns:
        return Record(image, caption)
    meta = LazyMeta(columns, first=3, images=more_images)
    return Record(image, caption, meta, meta.captions(caption))


def _further_columns(line: bytes, begin: int, more_images: Sequence[str]) -> bytes:
    """What is kept of the columns from `begin` on: images are large, so without need of one they are not."""
    end = line.find(b"\t", begin)
    if more_images:
        return line[begin:] if (end if end >= 0 else len(line)) - begin < MAX_META_BYTES else b""
    if end >= 0 and line.startswith(b"{", begin) and line.find(_NAMES_COLUMNS, begin, end) >= 0:
        line = line[:end]
    return line[begin:] if len(line) - begin < MAX_META_BYTES else b""


def _holds_object(line: bytes, begin: int) -> bool:
    """Whether the column at `begin` is JSON and not base64."""
    letter = line[begin : begin + 1]
    return letter == b"{" or (letter.isspace() and line[begin:].lstrip(b" \r\n\v\f").startswith(b"{"))


def _parse_aes(line: bytes, more_images: Sequence[str]) -> Record | BadRecord:
    columns = line.split(b"\t", 6)
    if len(columns) < 6:
        return BadRecord(TOO_FEW_COLUMNS, f"{len(columns)} of 6: {excerpt(line)}")
    text = decode_text(columns[2])
    row = text if isinstance(text, BadRecord) else parse_object(text)
    caption = row if isinstance(row, BadRecord) else caption_of(row, *AES_CAPTIONS)
    if isinstance(caption, BadRecord):
        return caption
    image = _decode_image(columns[5])
    if isinstance(image, BadRecord):
        return image
    assert isinstance(row, dict)
    meta = without(row, AES_CAPTIONS)
    if more_images and len(columns) > 6:
        further = LazyMeta(columns[6], first=6, images=more_images)
        meta.update((name, further[name]) for name in more_images if name in further)
    return Record(image, caption, meta, further_captions(row, AES_CAPTIONS, caption))


def _decode_image(column: bytes | memoryview) -> bytes | BadRecord:
    image = decode_base64(column)
    return image if image else BadRecord(EMPTY_IMAGE, "no byte in the image column")


def write_part(path: PathLike, records: Iterable[Record], gzip: bool = False) -> int:
    """Write a laion400m part, whole or not at all; returns the number of records.

    The bytes are a function of the records. Each run of tabs and line breaks in a caption becomes one space.
    """
    count = 0
    with atomic_write(path) as file:
        packer = MemberWriter(file) if gzip else None
        write = file.write if packer is None else packer.write
        for record in records:
            write(encode_line(record))
            count += 1
        if packer is not None:
            packer.close()
    return count


def encode_line(record: Record) -> bytes:
    """One line of a laion400m part. Raises ValueError for a record that no reader would give back."""
    columns = [clean_caption(record.caption).encode(), PLACEHOLDER, base64.b64encode(record.image)]
    images = further_images(record) if record.meta else {}
    extras = extras_json(record, list(images)).encode() if record.meta or record.more_captions else b""
    if extras:
        columns += [extras, *map(base64.b64encode, images.values())]
    line = b"\t".join(columns) + b"\n"
    if not record.image or len(line) > MAX_LINE_BYTES:
        wrong = "longer than a line may be" if record.image else "without an image"
        raise ValueError(f"record {wrong}: caption {record.caption[:60]!r}, image of {len(record.image)} bytes")
    if len(extras) >= MAX_META_BYTES:
        raise ValueError(f"record with {len(extras)} bytes of meta: caption {record.caption[:60]!r}")
    return line


def clean_caption(caption: str) -> str:
    """The caption with each run of tabs and line breaks as one space, as a part can hold it."""
    return re.sub(r"[\t\r\n]+", " ", caption)
