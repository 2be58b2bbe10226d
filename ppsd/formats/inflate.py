"""gzip in pieces, inflated with isal where it is installed, else with zlib: the same records either way.

isal takes about half of zlib's time. Both raise errors of their own; here these are two, EOFError and CorruptGzip.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from gzip import GzipFile
from typing import Any, BinaryIO, cast

try:
    from isal import isal_zlib

    LIBRARY: Any = isal_zlib
except ImportError:
    LIBRARY = zlib

GZIP_MAGIC = b"\x1f\x8b"
MEMBER_BEGINS = b"\x1f\x8b\x08"
PIECE_BYTES = 2**16
_GZIP_FORMAT = 31


class CorruptGzip(Exception):
    """What is in a gzip file cannot be inflated, or is not what was packed (its checksum differs)."""


def pieces(file: BinaryIO, head: bytes = b"") -> Iterator[bytes]:
    """`head`, which has been read already, then the rest of the file, in pieces that fit a processor's cache."""
    if head:
        yield head
    while piece := file.read(PIECE_BYTES):
        yield piece


def inflated(packed: Iterable[bytes]) -> Iterator[bytes]:
    """The data in a gzip file of any number of members, with zeros behind them if there are some.

    Raises EOFError where the file ends too early, CorruptGzip; what one piece holds is given out whole or not at all.
    """
    member, begun = None, False
    for piece in packed:
        while piece:
            if member is None:
                piece = piece.lstrip(b"\0") if begun else piece
                if not piece:
                    break
                member, begun = _new_member(piece), True
            try:
                data = member.decompress(piece)
            except LIBRARY.error as error:
                raise CorruptGzip(str(error)) from error
            if data:
                yield data
            piece = member.unused_data
            member = None if member.eof else member
    if member is not None or not begun:
        raise EOFError


def _new_member(piece: bytes) -> Any:
    """What inflates the member that begins with `piece`. isal would wait for 10 bytes before it looks at them."""
    if piece[:3] != MEMBER_BEGINS[: len(piece)]:
        raise CorruptGzip(f"no gzip member begins with {piece[:3]!r}")
    return LIBRARY.decompressobj(wbits=_GZIP_FORMAT)


def inflated_head(head: bytes, size: int) -> bytes:
    """The first `size` bytes of what `head`, the start of a file, holds when it is gzip; what can be had of them."""
    try:
        return bytes(LIBRARY.decompressobj(wbits=_GZIP_FORMAT).decompress(head, size))
    except LIBRARY.error:
        return b""


def deflated_if(gzip: bool, file: BinaryIO) -> AbstractContextManager[BinaryIO]:
    """A file to write into `file`, as gzip or as it is. Gzip is without its two fields that differ from run to run.

    Those are file name and time. zlib packs, since what isal makes is larger and depends on the processor.
    """
    if not gzip:
        return nullcontext(file)
    return cast(BinaryIO, GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0))
