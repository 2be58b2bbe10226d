"""Folders that cannot be written to, or are soon full: mounts of a namespace that only the attempts see."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNS = 0x00020000


class NoMounts(Exception):
    """This system does not let us mount; the message says why."""


def enter_mounts(process: int) -> None:
    """See what `process` sees mounted."""
    descriptor = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)


@contextmanager
def mounted(commands: str) -> Iterator[int]:
    """A process whose own mounts the shell `commands` have made; they end with it. Raises NoMounts."""
    script = f"set -e\n{commands}\necho ready\nexec cat"
    try:
        keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError as error:
        raise NoMounts(str(error)) from error
    with keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        try:
            if keeper.stdout.readline() != "ready\n":
                raise NoMounts(f"no mounts here: {keeper.stderr.read().strip()}")
            yield keeper.pid
        finally:
            keeper.kill()


def seen_by(process: int, path: Path) -> Path:
    """`path` as the attempts in the namespace of `process` see it, for one outside of it."""
    return Path(f"/proc/{process}/root{path}")
