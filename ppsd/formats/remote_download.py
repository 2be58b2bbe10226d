"""Reading what is at a URL to its end, whatever the network does on the way."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Optional, cast

from ppsd.formats.remote_cache import CacheWriter
from ppsd.formats.remote_errors import final_error, is_permanent
from ppsd.formats.remote_settings import cache_failed, count, remote_settings
from ppsd.formats.remote_sources import Facts, Source, open_source
from ppsd.formats.urls import shown_url

logger = logging.getLogger(__name__)

FORGIVEN_BYTES = 2**20  # a connection that brings so much is no failure in a row with the one before


class Cancelled(Exception):
    """The download was closed while it waited."""


class Download:
    """The bytes at a URL from `start` on, in order. For one thread, but for `close` and `last_sign`.

    Failures that may pass are retried with growing pauses, going on at the byte that was reached: by a range request,
    or by reading again and dropping what is known. Raises OSError naming the URL, the attempts and the last error;
    FileNotFoundError and PermissionError at once.
    """

    def __init__(self, url: str, start: int = 0, expected: Optional[Facts] = None) -> None:
        self._url, self._settings = url, remote_settings()
        self.position = start
        self._facts, self._source = expected, cast(Optional[Source], None)
        self.ranges = False  # whether the server is known to give parts of the file
        self._to_drop = 0
        self._failures, self._since_failure = 0, 0
        self._closed = threading.Event()
        self._jitter = random.SystemRandom()  # leaves the run's random numbers alone
        self.last_sign = time.monotonic()

    def facts(self) -> Facts:
        """Size and version; connects if need be."""
        while self._facts is None:
            try:
                self._connect()
            except Exception as error:  # noqa: BLE001  what a protocol's package raises has no common base
                self._failed(error)
        return self._facts

    def read(self, max_bytes: int) -> bytes:
        """Up to max_bytes, and b"" at the end."""
        while True:
            try:
                data = self._read_once(max_bytes)
            except Exception as error:  # noqa: BLE001  as above
                self._failed(error)
                continue
            if data is not None:
                return data

    def pause(self) -> None:
        """Give the connection up; the next `read` makes a new one."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def unchanged(self) -> bool:
        """Whether all that was read is one version of the file; asks the server if need be."""
        if self._source is not None and self._source.one_version:
            return True
        self.pause()
        try:
            self._connect()
        except Exception:  # noqa: BLE001  not known to be unchanged
            return False
        return True

    def close(self) -> None:
        self._closed.set()
        self.pause()

    def _connect(self) -> Source:
        self.last_sign = time.monotonic()
        source = open_source(self._url, self.position, self._settings)
        self.last_sign = time.monotonic()
        if self._facts not in (None, source.facts):
            source.close()
            raise ValueError(f"changed on the server while it was read: {self._facts} became {source.facts}")
        self._facts, self._source, self.ranges = source.facts, source, source.ranges
        self._to_drop = self.position - source.start
        return source

    def _read_once(self, max_bytes: int) -> Optional[bytes]:
        """None where what came was known."""
        if self._facts is not None and self.position == self._facts.size and self._source is None:
            return b""
        source = self._source or self._connect()
        data = source.read(max_bytes)
        self.last_sign = time.monotonic()
        if not data:
            self._check_end()
            return b""
        count("bytes", len(data))
        fresh = data[self._to_drop :]
        self._to_drop -= len(data) - len(fresh)
        self.position += len(fresh)
        self._since_failure += len(fresh)
        return fresh or None

    def _check_end(self) -> None:
        size = self._facts.size if self._facts else None
        if self._to_drop or size not in (None, self.position):
            raise ConnectionError(f"the file ended after {self.position} of {size} bytes")

    def _failed(self, error: Exception) -> None:
        """Wait for the next attempt, or raise."""
        self.pause()
        if self._closed.is_set():
            raise Cancelled
        self._failures = 1 if self._since_failure >= FORGIVEN_BYTES else self._failures + 1
        self._since_failure = 0
        if is_permanent(error) or self._failures > self._settings.retries:
            raise final_error(self._url, error, self._failures, self.position) from error
        count("retries")
        pause = min(self._settings.max_backoff_s, self._settings.backoff_s * 2 ** (self._failures - 1))
        pause *= self._jitter.uniform(0.5, 1.5)
        where = f"{shown_url(self._url)} at byte {self.position}"
        logger.info("%s: %s: %s; attempt %d in %.1f s", where, type(error).__name__, error, self._failures + 1, pause)
        if self._closed.wait(pause):
            raise Cancelled
        self.last_sign = time.monotonic()


class KeptDownload:
    """A download whose bytes also go to the cache, when there is a writer: all of them in the end, or none."""

    def __init__(self, download: Download, writer: Optional[CacheWriter]) -> None:
        self._download, self._writer = download, writer
        self._size = download.facts().size

    @property
    def last_sign(self) -> float:
        """When the network was last heard of, by time.monotonic."""
        return self._download.last_sign

    def read(self, max_bytes: int) -> bytes:
        data = self._download.read(max_bytes)
        if self._writer is not None:
            self._keep(self._writer, data)
        return data

    def rest(self) -> None:
        """The reader is busy: do not hold a connection open that can be had again."""
        if self._download.ranges:
            self._download.pause()

    def worth_finishing(self, max_bytes: int) -> bool:
        """Whether no more than so many bytes are missing of a part for the cache."""
        return self._writer is not None and (self._size or 0) - self._download.position <= max_bytes

    def cancel(self) -> None:
        """Make the thread that reads stop with Cancelled; for any thread."""
        self._download.close()

    def close(self) -> None:
        """For the thread that reads."""
        self._download.close()
        writer, self._writer = self._writer, None
        if writer is not None:
            _discard(writer)

    def _keep(self, writer: CacheWriter, data: bytes) -> None:
        try:
            if data:
                writer.write(data)
                return
            self._writer = None
            if self._download.unchanged():
                writer.commit()
            else:
                writer.discard()
        except OSError as error:
            self._writer = None
            cache_failed(error)
            _discard(writer)


def _discard(writer: CacheWriter) -> None:
    try:
        writer.discard()
    except OSError as error:
        cache_failed(error)
