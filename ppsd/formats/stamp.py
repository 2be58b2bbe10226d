"""Whether a part has changed since somebody looked at it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Optional

Row = tuple[str, int, int]


def part_stamp(path: str) -> Optional[list[int]]:
    """Size in bytes and time of change in ns; None for what is not on a local disk.

    Of a folder: the size of all files below it, and a hash of their names, sizes and times, because the folder's own
    time does not tell when a file in it is written anew. Links to folders are not followed.
    """
    try:
        facts = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(facts.st_mode):
        return [facts.st_size, facts.st_mtime_ns]
    rows = sorted(_files(path))
    digest = hashlib.blake2b(repr(rows).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return [sum(size for _, size, _ in rows), int.from_bytes(digest, "little")]


def _files(folder: str) -> Iterator[Row]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            try:
                facts = os.stat(path)
            except OSError:  # a link to nowhere, or just deleted
                yield path, 0, 0
            else:
                yield path, facts.st_size, facts.st_mtime_ns
