"""Whole parts from URLs in a local folder of limited size.

FOLDER/ab/URLHASH-VERSIONHASH-SIZE.part. Its time of access is when it was last used, its time of modification when it
was last compared with the server. A part in the making is `*.tmp` of its final size, locked by the process that
makes it, so that it counts, and can be told from what a killed process left. Readers keep the file that they have
opened when it is deleted under them (the folder has to be on a local disk for that).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple, Optional

from ppsd.formats.remote_settings import count
from ppsd.formats.remote_sources import Facts

PART, TEMPORARY = ".part", ".tmp"
SYNC_BYTES = 2**25


class _Kept(NamedTuple):
    path: str
    size: int
    used: float
    checked: float


class PartCache:
    """Every method raises OSError when the folder cannot be used."""

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes

    def find(self, url: str, checked_after: float) -> Optional[BinaryIO]:
        """The part at `url` as it was on the server at a time later than checked_after (seconds since the epoch)."""
        kept = sorted(self._copies(url), key=lambda copy: copy.checked, reverse=True)
        found = next((copy for copy in kept if copy.checked > checked_after), None)
        return None if found is None else self._open(found.path, found.checked)

    def find_version(self, url: str, facts: Facts) -> Optional[BinaryIO]:
        """The part at `url` in the version that the server has now."""
        return self._open(self._path(url, facts), time.time()) if facts.size is not None else None

    def begin(self, url: str, facts: Facts) -> Optional[CacheWriter]:
        """Makes room for a part; None where its size is not known, or too large, or somebody is at it already."""
        size = facts.size
        if not size or size > self._limit:
            return None
        path = self._path(url, facts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with self._locked():
            if self._in_the_making(path) or not self._make_room(size):
                return None
            return CacheWriter(path, size)

    def size(self) -> int:
        """Bytes of all parts, those in the making included."""
        return sum(kept.size for kept in self._scan(""))

    def _path(self, url: str, facts: Facts) -> str:
        version = hashlib.blake2b(facts.tag.encode(), digest_size=6).hexdigest()
        return os.path.join(self._home(url), f"{_url_hash(url)}-{version}-{facts.size}{PART}")

    def _home(self, url: str) -> str:
        return os.path.join(self._folder, _url_hash(url)[:2])

    def _open(self, path: str, checked: float) -> Optional[BinaryIO]:
        try:
            file = open(path, "rb", buffering=2**17)  # noqa: SIM115  the caller's to close
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_size != int(path[: -len(PART)].rpartition("-")[2]):
            file.close()  # a disk that lost power can shorten a file
            _remove(path)
            return None
        with suppress(FileNotFoundError):
            os.utime(path, (time.time(), checked))
        count("cache_hits")
        return file

    def _copies(self, url: str) -> Iterator[_Kept]:
        with suppress(FileNotFoundError):
            yield from _list(self._home(url), PART, _url_hash(url) + "-")

    def _scan(self, ending: str) -> Iterator[_Kept]:
        for entry in os.scandir(self._folder):
            if entry.is_dir() and len(entry.name) == 2:
                yield from _list(entry.path, ending)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(os.path.join(self._folder, "lock"), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _in_the_making(self, path: str) -> bool:
        """Whether some process writes this part now. Clears away what dead ones left."""
        for left in self._scan(TEMPORARY):
            _remove_if_dead(left.path)
        home, name = os.path.split(path)
        return any(_list(home, TEMPORARY, name))

    def _make_room(self, size: int) -> bool:
        """Delete what was used longest ago until `size` more bytes fit; False where parts in the making fill it."""
        total = self.size() + size
        if sum(kept.size for kept in self._scan(TEMPORARY)) + size > self._limit:
            return False
        for kept in sorted(self._scan(PART), key=lambda kept: kept.used):
            if total <= self._limit:
                break
            _remove(kept.path)
            total -= kept.size
        return True


class CacheWriter:
    """A part in the making, to be written in order."""

    def __init__(self, path: str, size: int) -> None:
        self._path, self._size, self._written = path, size, 0
        self._temporary = f"{path}.{secrets.token_hex(4)}{TEMPORARY}"
        self._file = open(self._temporary, "x+b", buffering=0)  # noqa: SIM115  the part's reader may take it over
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(size)
        except OSError:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        before, self._written = self._written, self._written + len(data)
        if self._written // SYNC_BYTES > before // SYNC_BYTES:
            os.fsync(self._file.fileno())  # else the end of the part would wait for all of it

    def commit(self) -> None:
        """Make the part appear; all of it has to be written."""
        assert self._written == self._size
        os.fsync(self._file.fileno())
        os.utime(self._temporary, (time.time(), time.time()))  # the system's own time stamps lag some milliseconds
        os.replace(self._temporary, self._path)
        self._file.close()
        count("cached_parts")
        home, name = os.path.split(self._path)
        for other in _list(home, PART, name.partition("-")[0] + "-"):
            if other.path != self._path:
                _remove(other.path)

    def discard(self) -> None:
        _remove(self._temporary)
        self._file.close()


def _url_hash(url: str) -> str:
    return hashlib.blake2b(url.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _list(folder: str, ending: str, beginning: str = "") -> Iterator[_Kept]:
    for entry in os.scandir(folder):
        if entry.name.startswith(beginning) and entry.name.endswith(ending):
            with suppress(FileNotFoundError):  # another process deleted it
                facts = entry.stat()
                yield _Kept(entry.path, facts.st_size, facts.st_atime, facts.st_mtime)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _remove_if_dead(path: str) -> None:
    """A part in the making whose maker is gone is not locked."""
    with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
