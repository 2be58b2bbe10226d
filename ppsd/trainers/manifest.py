"""What makes a folder a whole checkpoint: COMPLETE, written last, with the size and checksum of every other file."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

from ppsd.formats.atomic import naming
from ppsd.formats.safetensors_file import Digest

COMPLETE = "COMPLETE"
VERSION = 1
_CHUNK = 1 << 22


def seal(folder: Path, step: int, known: Mapping[Path, Digest]) -> None:
    """Flush every file and folder in `folder` to the disk, and then write COMPLETE, which lists them.

    `known`: digests that need not be computed by reading again.
    """
    files = {}
    for path in _files(folder):
        files[path.relative_to(folder).as_posix()] = list(known.get(path) or digest(path))
        flush(path)
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        flush(path)
    manifest = folder / COMPLETE
    with naming(manifest), open(manifest, "w", encoding="utf-8") as file:
        json.dump({"version": VERSION, "step": step, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    flush(folder)


def fault(folder: Path) -> Optional[str]:
    """Why `folder` is no whole checkpoint, by what COMPLETE says and the sizes of the files. None: it is one."""
    try:
        manifest = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        version, files = manifest["version"], manifest["files"]
    except FileNotFoundError:
        return f"it has no {COMPLETE} file"
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"its {COMPLETE} file cannot be read: {error!r}"
    if version != VERSION:
        return f"its {COMPLETE} file has version {version}; this ppsd reads {VERSION}"
    for name, (nbytes, _) in files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if size != nbytes:
            return f"{name} has {size} bytes instead of {nbytes}"
    return None


def checksum_fault(folder: Path) -> Optional[str]:
    """As `fault`, and reads every file to compare its checksum."""
    found = fault(folder)
    if found is not None:
        return found
    files = list(file_list(folder).items())
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda item: _readable_digest(folder / item[0]), files))
    for (name, wanted), seen in zip(files, read):
        if seen != wanted:
            return f"{name} is damaged: {seen if isinstance(seen, str) else 'its checksum differs'}"
    return None


def file_list(folder: Path) -> dict[str, Digest]:
    """Path within a whole checkpoint -> its digest."""
    manifest = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    return {name: Digest(*entry) for name, entry in manifest["files"].items()}


def digest(path: Path) -> Digest:
    """Of a file as it is now."""
    size = crc = 0
    with naming(path), open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return Digest(size, crc)


def flush(path: Path) -> None:
    """Have the disk hold a file's data, or a folder's names (where its file system lets folders be flushed)."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
                raise
        finally:
            os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE)


def _readable_digest(path: Path) -> object:
    """The digest, or why there is none (a disk that fails)."""
    try:
        return digest(path)
    except OSError as error:
        return f"{error.strerror}"
