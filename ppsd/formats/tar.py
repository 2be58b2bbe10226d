"""Tar archives (POSIX ustar and pax, GNU, V7) member by member, forwards only; several times faster than tarfile.

Names and sizes are all that is taken from headers. Data that nobody reads are passed over.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple, Optional

from ppsd.formats.byte_reader import ByteReader
from ppsd.formats.lines import excerpt

BLOCK = 512
MAX_HEADER_BYTES = 2**20
MAX_SIZE_DIGITS = 20
TRUNCATED_TAR = "truncated tar"
CORRUPT_TAR = "corrupt tar"

_ZEROS = bytes(BLOCK)
_REGULAR = frozenset({b"0", b"\0", b"7"})
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})


class BadTar(Exception):
    """The archive cannot be read on. `reason` is TRUNCATED_TAR or CORRUPT_TAR."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Member(NamedTuple):
    """A regular file in an archive, and how many bytes it has."""

    name: str
    size: int


class _Overrides(NamedTuple):
    """What long-name and pax headers say of the member behind them."""

    name: Optional[bytes] = None
    size: Optional[int] = None


class TarReader:
    """The regular files of an archive, one after the other."""

    def __init__(self, source: ByteReader) -> None:
        self._source = source
        self._unread = 0
        self._padding = 0
        self._at_start = True

    def next(self) -> Member | None:
        """The next file; None at the end of the archive. Raises BadTar, and what the source raises."""
        overrides = _Overrides()
        while True:
            self._pass_over()
            header = self._source.read(BLOCK)
            if len(header) < BLOCK:
                raise BadTar(TRUNCATED_TAR, "the file ends before the block that marks the end of the archive")
            if header == _ZEROS:
                self._check_end()
                return None
            self._check(header)
            kind, size = header[156:157], _number(header[124:136])
            size = size if overrides.size is None or kind in b"xLKg" else overrides.size
            size = 0 if kind in _WITHOUT_DATA else size
            self._unread, self._padding = size, -size % BLOCK
            if kind in (b"L", b"x"):
                overrides = self._extended(kind, size, overrides)
            elif kind in _REGULAR:
                name = overrides.name or _name(header)
                return Member(name.decode("utf-8", "surrogateescape"), size)
            elif kind not in b"Kg":
                overrides = _Overrides()

    def read(self) -> bytes:
        """The data of the file that was given last. Raises BadTar, and what the source raises."""
        size, self._unread = self._unread, 0
        data = self._source.read(size)
        if len(data) < size:
            raise BadTar(TRUNCATED_TAR, f"the file ends {size - len(data)} bytes before the end of a member")
        return data

    def _check(self, header: bytes) -> None:
        if self._at_start and not is_tar(header):
            raise BadTar(CORRUPT_TAR, f"this is not a tar archive: it begins with {excerpt(header, 16)}")
        check_header(header)
        self._at_start = False

    def _check_end(self) -> None:
        """Behind the block that marks the end there is nothing but zeros, or the block was not the end."""
        while block := self._source.read(2**16):
            if block.strip(b"\0"):
                raise BadTar(CORRUPT_TAR, "there is more behind a block of zeros, which marks the end of the archive")

    def _pass_over(self) -> None:
        size = self._unread + self._padding
        skipped = self._source.skip(size) if size else 0
        self._unread = self._padding = 0
        if skipped < size:
            raise BadTar(TRUNCATED_TAR, f"the file ends {size - skipped} bytes before the end of a member")

    def _extended(self, kind: bytes, size: int, overrides: _Overrides) -> _Overrides:
        if size > MAX_HEADER_BYTES:
            raise BadTar(CORRUPT_TAR, f"a header of {size} bytes; the limit is {MAX_HEADER_BYTES}")
        data = self.read()
        if kind == b"L":
            return overrides._replace(name=data.split(b"\0", 1)[0])
        fields = _pax_fields(data)
        size_field = fields.get(b"size")
        if size_field is not None and not (size_field.isdigit() and len(size_field) <= MAX_SIZE_DIGITS):
            raise BadTar(CORRUPT_TAR, f"size {excerpt(size_field)} in a pax header")
        return _Overrides(
            fields.get(b"path", overrides.name), int(size_field) if size_field is not None else overrides.size
        )


def check_header(header: bytes) -> None:
    """Raises BadTar for a block that is no header: its checksum tells."""
    # The low half of adler32 is 1 + the sum of the bytes, modulo 65521; the checksum counts its own field as 8 blanks.
    counted = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * ord(" ")
    if (_number(header[148:156]) - counted) % 65521:
        raise BadTar(CORRUPT_TAR, f"the checksum of a header is wrong; it begins with {excerpt(header)}")


def is_tar(head: bytes) -> bool:
    """Whether `head` can be the beginning of a tar archive, be it an empty one."""
    header = head[:BLOCK]
    if len(header) < BLOCK:
        return False
    try:
        check_header(header)
    except BadTar:
        return header[257:262] == b"ustar" or header == _ZEROS
    return True


def _number(field: bytes) -> int:
    """Octal digits, or 256-based behind a bit that says so (GNU, for what is too large)."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if digits.strip(b"01234567"):  # int() takes a sign, too
        raise BadTar(CORRUPT_TAR, f"{excerpt(field)} where a header has an octal number")
    return int(digits or b"0", 8)


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax_fields(data: bytes) -> dict[bytes, bytes]:
    """`17 path=some/name\\n` ...: each field begins with its length in bytes, that number included."""
    fields = {}
    while data.strip(b"\0"):
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not equals or not value.endswith(b"\n") or length > len(data):
            raise BadTar(CORRUPT_TAR, f"no pax header: {excerpt(data)}")
        fields[key] = value[:-1]
        data = data[length:]
    return fields
