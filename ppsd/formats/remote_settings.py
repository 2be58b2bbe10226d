"""How parts at URLs are read: settings of this process and of those it forks, and counts of what happened."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Optional

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteSettings:
    """cache_dir: keeps whole parts, at most cache_gb (10^9 bytes) of them; None: parts are not kept.

    cache_check_s: a kept part is compared with that on the server when this was not done for so many seconds.
    read_ahead_mb: MiB that a process reads ahead over all its open parts; each may hold one piece more, a quarter at
    least.
    retries: failures in a row before a part is given up; the pause before the next attempt doubles from backoff_s to
    max_backoff_s, give or take a half. stall_s: seconds without a byte that count as a failure.
    idle_s: a connection whose reader is busy for so many seconds is closed, and opened again where it stopped.
    """

    cache_dir: Optional[str] = None
    cache_gb: float = 20.0
    cache_check_s: float = 3600.0
    read_ahead_mb: float = 64.0
    retries: int = 6
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    stall_s: float = 60.0
    idle_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.cache_gb > 0:
            raise ValueError(f"--data_cache_gb {self.cache_gb} is not above 0")
        assert self.retries >= 0
        assert min(self.read_ahead_mb, self.stall_s, self.idle_s) > 0


class _Process:
    """What one process knows; a forked one starts anew."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a destructor may count, too
        self.counts: Counter[str] = Counter()
        self.warned: set[str] = set()


_settings = RemoteSettings()
_process = _Process()


def _start_anew() -> None:
    global _process
    _process = _Process()


os.register_at_fork(after_in_child=_start_anew)


def configure(**changes: Any) -> RemoteSettings:
    """Change settings (see RemoteSettings) for this process and those forked from now on.

    Raises ValueError naming the flag for a size that is not above 0 or a cache folder that cannot be written.
    """
    global _settings
    settings = replace(_settings, **changes)
    if settings.cache_dir is not None:
        try:
            os.makedirs(settings.cache_dir, exist_ok=True)
            with tempfile.TemporaryFile(dir=settings.cache_dir):
                pass
        except OSError as error:
            raise ValueError(f"--data_cache_dir {settings.cache_dir}: cannot be written: {error.strerror}") from None
    _settings = settings
    return settings


def remote_settings() -> RemoteSettings:
    return _settings


def count(what: str, number: int = 1) -> None:
    with _process.lock:
        _process.counts[what] += number


def remote_counts() -> dict[str, int]:
    """What this process did so far: connections, retries, bytes, cache_hits, cached_parts."""
    with _process.lock:
        return dict(_process.counts)


def warn_once(kind: str, message: str, *args: object) -> None:
    """Log a warning, the first one of its kind in this process."""
    with _process.lock:
        first = kind not in _process.warned
        _process.warned.add(kind)
    if first:
        logger.warning(message, *args)


def cache_failed(error: OSError) -> None:
    """The cache is a convenience: reading goes on without it, and says so once."""
    count("cache_failures")
    warn_once("cache", "parts are read without keeping them in --data_cache_dir: %s", error)
