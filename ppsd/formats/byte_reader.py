"""Reading a known number of bytes at a time: from a file that can be sought, or from pieces as they come."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from ppsd.formats.inflate import GZIP_MAGIC, inflated, pieces


class ByteReader(Protocol):
    """Both give less than `size` only at the end of the file."""

    def read(self, size: int) -> bytes: ...

    def skip(self, size: int) -> int: ...


def byte_reader(raw: BinaryIO, head: bytes) -> ByteReader:
    """What `raw` holds from its beginning, inflated if it is gzip. `head` has been read from it already."""
    if head.startswith(GZIP_MAGIC):
        return PieceReader(inflated(pieces(raw, head)))
    return FileReader(raw) if raw.seekable() else PieceReader(pieces(raw, head))


class FileReader:
    """A file whose data need not be read to be passed over."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._position = file.seek(0)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._position += len(data)
        return data

    def skip(self, size: int) -> int:
        size = min(size, max(0, self._size - self._position))
        self._position += size
        self._file.seek(size, os.SEEK_CUR)
        return size


class PieceReader:
    """Pieces that come one after the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._begin = 0

    def read(self, size: int) -> bytes:
        return b"".join(self._take(size))

    def skip(self, size: int) -> int:
        return sum(map(len, self._take(size)))

    def _take(self, size: int) -> Iterator[memoryview]:
        while size > 0:
            if self._begin == len(self._piece):
                self._piece, self._begin = next(self._pieces, b""), 0
                if not self._piece:
                    return
            taken = memoryview(self._piece)[self._begin : self._begin + size]
            self._begin += len(taken)
            size -= len(taken)
            yield taken
