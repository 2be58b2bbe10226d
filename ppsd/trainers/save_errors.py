"""Saving that fails, foreseen or not, said so that the reader knows what to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


def require_room(folder: Path, nbytes: int) -> None:
    """Raise the OSError of a full disk where fewer than `nbytes` are free. Quotas show only in writing."""
    usage = shutil.disk_usage(folder)
    if usage.total > 0 and usage.free < nbytes:  # some network file systems say 0 for both
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def explain(error: OSError, name: str, folder: Path, nbytes: int) -> str:
    """What could not be saved where and why, that nothing else is lost, and what to do. `nbytes`: what it takes."""
    what = f"cannot save {name} in {folder}: {error.strerror or error}"
    if error.errno in _FULL:
        what += f": it takes {_gigabytes(nbytes)}, {_free(folder)} free on this disk"
        cure = "make room there"
    else:
        what += f" ({error.filename})" if error.filename else ""
        cure = "see to it that the folder can be written to"
    return f"{what}. What was saved before is untouched: {cure} and run the same command again"


def _free(folder: Path) -> str:
    try:
        return f"{_gigabytes(shutil.disk_usage(folder).free)} are"
    except OSError:
        return "unknown how much is"


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"
