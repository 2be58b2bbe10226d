"""What a machine that loses power takes with it."""

from __future__ import annotations

import json
import os
from pathlib import Path


def file_state(stat: os.stat_result) -> list[int]:
    """What changes when a file is written: inode, size, time."""
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def lose_power(folder: Path, synced: Path, since_ns: int) -> list[Path]:
    """Empty the files written after `since_ns` and not fsynced since, as a file system does that allocates late."""
    safe = {tuple(json.loads(line)) for line in synced.read_text().splitlines()} if synced.is_file() else set()
    lost = []
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_mtime_ns >= since_ns and tuple(file_state(file.stat())) not in safe:
            lost.append(file)
            os.truncate(file, 0)
    return lost
