"""Reading ahead in the background, within a limit of memory that all open parts of a process share."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Optional

from ppsd.formats.remote_download import Cancelled, KeptDownload
from ppsd.formats.remote_settings import remote_settings
from ppsd.formats.urls import shown_url

MIN_BYTES, MAX_BYTES = 2**18, 2**23
STALLS = 10  # so many of RemoteSettings.stall_s without any sign: the protocol's package hangs


class ReadAhead:
    """Pieces that a thread downloads while others are used; for one reader. Raises what the download raises."""

    _lock = threading.RLock()  # a destructor may close, too
    _open = _held_by_all = 0

    def __init__(self, url: str, download: KeptDownload) -> None:
        self._url, self._download = url, download
        self._settings, self._owner = remote_settings(), os.getpid()
        self._pieces: deque[memoryview] = deque()
        self._held = 0
        self._closed = self._ended = False
        self._error: Optional[BaseException] = None
        self._changed = threading.Condition()
        _add(streams=1)
        threading.Thread(target=self._run, name=f"read {shown_url(url)}", daemon=True).start()

    def take(self, max_bytes: int) -> memoryview:
        """The next bytes; empty at the end."""
        with self._changed:
            while not self._pieces and not self._ended:
                if not self._changed.wait(self._settings.stall_s):
                    self._check_alive()
            if not self._pieces:
                if self._error is not None:
                    raise self._error
                return memoryview(b"")
            data, rest = self._pieces[0][:max_bytes], self._pieces[0][max_bytes:]
            if rest:
                self._pieces[0] = rest
            else:
                self._pieces.popleft()
            self._hold(-len(data))
            self._changed.notify_all()
            return data

    def close(self) -> None:
        """End the download, unless so little is missing that the cache gets the whole part."""
        if self._closed or os.getpid() != self._owner:  # a forked copy has no thread
            return
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._hold(-self._held)
            self._changed.notify_all()
        _add(streams=-1)
        if not self._download.worth_finishing(MAX_BYTES):
            self._download.cancel()

    def _run(self) -> None:
        try:
            while data := self._download.read(self._share() // 2):
                if not self._put(data) and not self._download.worth_finishing(MAX_BYTES):
                    break
        except Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001  it is raised in the reader
            self._error = error
        finally:
            self._download.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, data: bytes) -> bool:
        """Wait until there is room; False when nobody reads any more."""
        with self._changed:
            while self._full() and not self._closed:
                if not self._changed.wait(self._settings.idle_s):
                    self._download.rest()
            if not self._closed:
                self._pieces.append(memoryview(data))
                self._hold(len(data))
                self._changed.notify_all()
            return not self._closed

    def _full(self) -> bool:
        """Whether the reader has enough to go on with. What others hold does not count as long as it has nothing."""
        return self._held > 0 and (self._held >= self._share() or ReadAhead._held_by_all >= self._budget())

    def _share(self) -> int:
        """Bytes that this part may read ahead now."""
        return min(max(self._budget() // max(1, ReadAhead._open), MIN_BYTES), 2 * MAX_BYTES)

    def _budget(self) -> int:
        """Bytes for all parts of this process."""
        return int(self._settings.read_ahead_mb * 2**20)

    def _hold(self, change: int) -> None:
        self._held += change
        _add(held=change)

    def _check_alive(self) -> None:
        silence = time.monotonic() - self._download.last_sign
        if silence > STALLS * self._settings.stall_s + 2 * self._settings.max_backoff_s:
            raise OSError(f"{shown_url(self._url)}: gave up after {silence:.0f} s without an answer of any kind")


def _add(streams: int = 0, held: int = 0) -> None:
    with ReadAhead._lock:
        ReadAhead._open += streams
        ReadAhead._held_by_all += held


def _start_anew() -> None:
    ReadAhead._lock, ReadAhead._open, ReadAhead._held_by_all = threading.RLock(), 0, 0


os.register_at_fork(after_in_child=_start_anew)
