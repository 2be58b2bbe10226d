"""Memory that is freed stays with the process, where the next batch finds it."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 32 * 2**20  # and twice that: as far as glibc goes by itself when it meets blocks of this size
_USERS = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Have glibc keep up to 64 MB of freed memory instead of giving it back to the system after every batch.

    A batch of 16 images of 256 px is 3 MB, whose pages the system would clear and hand out anew each time: 0.15 ms an
    image. False where there is nothing to do: with another C library, or where the user has set malloc's variables.
    """
    if any(name in os.environ for name in _USERS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2 * _LARGEST))
