"""Files at URLs as a reader sees them: out of the local cache, read ahead in the background, or seekable."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from typing import Any, BinaryIO, Callable, Optional, TypeVar, cast

from ppsd.formats.remote_ahead import ReadAhead
from ppsd.formats.remote_cache import PartCache
from ppsd.formats.remote_download import Download, KeptDownload
from ppsd.formats.remote_settings import cache_failed, remote_settings, warn_once
from ppsd.formats.remote_sources import Facts

PIECE_BYTES = 2**23

T = TypeVar("T")


def open_url(url: str, seekable: bool, keep: bool) -> BinaryIO:
    """See ppsd.formats.opening.open_input."""
    settings = remote_settings()
    cached = keep and settings.cache_dir is not None
    cache = PartCache(str(settings.cache_dir), int(settings.cache_gb * 1e9)) if cached else None
    kept = cache and _from_cache(lambda: cache.find(url, time.time() - settings.cache_check_s))
    if kept:
        return kept
    download = Download(url)
    try:
        facts = download.facts()
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        kept = cache and _from_cache(lambda: cache.find(url, 0))
        if not kept:
            raise
        warn_once("stale", "the server cannot be asked, so the copy in --data_cache_dir is used: %s", error)
        return kept
    return _open_version(url, facts, download, cache, seekable)


def _open_version(url: str, facts: Facts, download: Download, cache: Optional[PartCache], seekable: bool) -> BinaryIO:
    kept = cache and _from_cache(lambda: cache.find_version(url, facts))
    if kept:
        download.close()
        return kept
    writer = _from_cache(lambda: cache.begin(url, facts)) if cache else None
    keeping = KeptDownload(download, writer)
    if not seekable:
        return cast(BinaryIO, io.BufferedReader(StreamFile(url, keeping), 2**17))
    if cache and writer:
        _drain(keeping)
        kept = _from_cache(lambda: cache.find_version(url, facts))
        if kept:
            return kept
    if facts.size is not None and download.ranges:
        return cast(BinaryIO, io.BufferedReader(RangedFile(url, facts), 2**20))
    return _copy(Download(url, expected=facts))


def _from_cache(use: Callable[[], T]) -> Optional[T]:
    """What the cache has; None where its folder cannot be used."""
    try:
        return use()
    except OSError as error:
        cache_failed(error)
        return None


def _drain(download: KeptDownload) -> None:
    try:
        while download.read(PIECE_BYTES):
            pass
    finally:
        download.close()


def _copy(download: Download) -> BinaryIO:
    """A nameless local copy, for servers that know no ranges."""
    file = tempfile.TemporaryFile(prefix="ppsd-part-")  # noqa: SIM115  the caller's to close
    try:
        shutil.copyfileobj(cast(Any, download), file, PIECE_BYTES)
    except BaseException:
        file.close()
        raise
    finally:
        download.close()
    file.seek(0)
    return cast(BinaryIO, file)


class StreamFile(io.RawIOBase):
    """A download in order, read ahead by a thread."""

    def __init__(self, url: str, download: KeptDownload) -> None:
        self._ahead = ReadAhead(url, download)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._ahead.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._ahead.close()
        super().close()


class RangedFile(io.RawIOBase):
    """Any bytes of a file at a URL; reading on where the last read ended goes on with the same connection."""

    def __init__(self, url: str, facts: Facts) -> None:
        assert facts.size is not None
        self._url, self._facts, self._size = url, facts, facts.size
        self._position = 0
        self._download: Optional[Download] = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to byte {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        if self._download is None or self._download.position != self._position:
            self._disconnect()
            self._download = Download(self._url, self._position, self._facts)
        data = self._download.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _disconnect(self) -> None:
        if self._download is not None:
            self._download.close()
        self._download = None
