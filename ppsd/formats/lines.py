"""Lines and text of files that nobody vouches for: bounded, and wrong in ways that are values."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ppsd.types import BadRecord

MAX_LINE_BYTES = 64 * 2**20
PIECE_BYTES = 2**20

LINE_TOO_LONG = "line too long"
NOT_TEXT = "not valid text"
BAD_JSON = "invalid JSON"
NO_CAPTION = "no caption"


def read_line(file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> bytes | None:
    """The next line with its line ending; b"" at the end of the file.

    None stands for a line of more than max_bytes: it is passed over and never held whole.
    """
    line = file.readline(max_bytes + 1)
    if len(line) <= max_bytes:
        return line
    if not line.endswith(b"\n"):
        del line
        skip_line(file)
    return None


def skip_line(file: BinaryIO) -> bool:
    """Pass over one line, however long, in small pieces. False at the end of the file."""
    piece = file.readline(PIECE_BYTES)
    found = bool(piece)
    while piece and not piece.endswith(b"\n"):
        piece = file.readline(PIECE_BYTES)
    return found


class LineReader:
    """Lines of a file that comes in pieces. A line is copied once, one that is passed over never."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._begin = 0

    def skip(self) -> bool:
        """Pass over one line, however long. False at the end of the file."""
        found = False
        while self._has_more():
            found = True
            end = self._piece.find(b"\n", self._begin)
            self._begin = end + 1 if end >= 0 else len(self._piece)
            if end >= 0:
                break
        return found

    def read(self, max_bytes: int = MAX_LINE_BYTES) -> bytes | BadRecord | None:
        """The next line without its LF or CR LF (other blanks belong to the data); None at the end of the file.

        A line of more than max_bytes with its ending is passed over and never held whole.
        """
        parts: list[bytes] = []
        size = 0
        while self._has_more():
            end = self._piece.find(b"\n", self._begin)
            part = self._piece[self._begin : end] if end >= 0 else self._piece[self._begin :]
            self._begin = end + 1 if end >= 0 else len(self._piece)
            parts.append(part)
            size += len(part)
            if size + (end >= 0) > max_bytes:
                parts.clear()
                if end < 0:
                    self.skip()
                return too_long(max_bytes)
            if end >= 0:
                line = parts[0] if len(parts) == 1 else b"".join(parts)
                return line[:-1] if line.endswith(b"\r") else line
        return b"".join(parts) if parts else None

    def _has_more(self) -> bool:
        if self._begin < len(self._piece):
            return True
        self._piece, self._begin = next(self._pieces, b""), 0
        return bool(self._piece)


def text_lines(file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str | BadRecord]]:
    """The lines of a text file with their numbers from 1 and with their endings; a byte order mark is dropped."""
    line_no = 0
    while (line := read_line(file, max_bytes)) != b"":
        line_no += 1
        if line_no == 1 and line is not None:
            line = line[len(BOM_UTF8) :] if line.startswith(BOM_UTF8) else line
        yield line_no, too_long(max_bytes) if line is None else decode_text(line)


def too_long(max_bytes: int) -> BadRecord:
    return BadRecord(LINE_TOO_LONG, f"more than {max_bytes} bytes")


def decode_text(data: bytes) -> str | BadRecord:
    """UTF-8, else GB18030 (the encoding of many Chinese crawls)."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return BadRecord(NOT_TEXT, f"neither UTF-8 nor GB18030: {excerpt(data)}")


def parse_object(text: str) -> dict[str, Any] | BadRecord:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRecord(BAD_JSON, f"{error}: {excerpt(text)}")
    if not isinstance(value, dict):
        return BadRecord(BAD_JSON, f"{type(value).__name__} where an object is expected: {excerpt(text)}")
    return value


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as one line of JSON. Half a surrogate pair can only be written as an escape; other text stays readable."""
    text = json.dumps(row, ensure_ascii=False)
    if isinstance(checked_text(text), BadRecord):
        text = json.dumps(row)
    return text.encode() + b"\n"


def caption_of(row: Mapping[str, Any], *keys: str) -> str | BadRecord:
    """The text under the first of `keys` that is there and not null; of a list of texts, the first."""
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        found = f"{type(value).__name__} under it" if value is not None else f"keys are {', '.join(row) or 'none'}"
        return BadRecord(NO_CAPTION, f"no text under {' or '.join(map(repr, keys))}: {excerpt(found)}")
    return checked_text(value)


def checked_text(text: str) -> str | BadRecord:
    """`text`, unless it cannot be written as UTF-8 (JSON can spell half of a surrogate pair)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return BadRecord(NOT_TEXT, f"{error.reason} at character {error.start}")
    return text


def excerpt(data: str | bytes, length: int = 60) -> str:
    """The start of `data`, quoted, on one line."""
    return repr(data[:length])
