"""gzip files of lines, in members that say how long they are, so that a reader can hop over lines it does not want.

Any gzip reader reads them. What a member says is in its header's extra field (RFC 1952, 2.3.1.1), subfield "pp": three
little-endian uint32, the bytes of the whole member, the lines in it and the CRC32 of these two. Lines are never split.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple, Optional

from ppsd.formats.inflate import MEMBER_BEGINS, PIECE_BYTES

MEMBER_BYTES = 2**22  # of lines: inflated in a few hundredths of a second
_HEADER = struct.Struct("<3sBIBBH2sH4s4sI")
_EXTRA = (16, b"pp", 12)  # bytes of the field, name and bytes of the subfield
_COUNT = struct.Struct("<I")
_TRAILER = struct.Struct("<II")


class Member(NamedTuple):
    """What the header of a member says."""

    num_bytes: int
    lines: int


class MemberWriter:
    """Packs whole lines into `file`. The bytes are a function of the lines; even without any there is one member."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members = self._lines = self._size = self._crc = 0
        self._begin()

    def write(self, line: bytes) -> None:
        self._packed.append(self._deflate.compress(line))
        self._crc = zlib.crc32(line, self._crc)
        self._size += len(line)
        self._lines += 1
        if self._size >= MEMBER_BYTES:
            self._end()

    def close(self) -> None:
        if self._lines or not self._members:
            self._end()

    def _begin(self) -> None:
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        self._packed: list[bytes] = []
        self._crc = self._size = self._lines = 0

    def _end(self) -> None:
        data = b"".join([*self._packed, self._deflate.flush()])
        self._file.write(_header(Member(_HEADER.size + len(data) + _TRAILER.size, self._lines)))
        self._file.write(data)
        self._file.write(_TRAILER.pack(self._crc, self._size & 0xFFFFFFFF))
        self._members += 1
        self._begin()


def _header(member: Member) -> bytes:
    """Without time and system, which differ from run to run."""
    size, lines = _COUNT.pack(member.num_bytes), _COUNT.pack(member.lines)
    return _HEADER.pack(MEMBER_BEGINS, 4, 0, 0, 255, *_EXTRA, size, lines, zlib.crc32(size + lines))


def read_header(head: bytes) -> Optional[Member]:
    """What the member that begins with `head` says of itself; None where it says nothing."""
    if len(head) < _HEADER.size:
        return None
    magic, flags, _, _, _, *extra, size, lines, crc = _HEADER.unpack_from(head)
    if magic != MEMBER_BEGINS or flags != 4 or tuple(extra) != _EXTRA or crc != zlib.crc32(size + lines):
        return None
    return Member(*_COUNT.unpack(size), *_COUNT.unpack(lines))


def hop(file: BinaryIO, head: bytes, lines: int) -> tuple[int, bytes]:
    """Go to the last member of a seekable file that begins after at most `lines` lines; `head` is how it begins.

    Returns the lines passed over and how the rest of the file begins. Hops only from member to member, so at the end of
    a file, and at damage, its last sound one is left to be read.
    """
    passed = position = 0
    while True:
        member = read_header(head)
        if member is None or passed + member.lines > lines:
            return passed, head
        file.seek(position + member.num_bytes)
        following = file.read(PIECE_BYTES)
        if not following.startswith(MEMBER_BEGINS):
            file.seek(position + len(head))
            return passed, head
        position, passed, head = position + member.num_bytes, passed + member.lines, following
