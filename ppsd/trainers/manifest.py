"""What makes a folder a whole checkpoint: COMPLETE, written last, with the size and checksum of every other file."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Optional

from ppsd.formats.atomic import naming
from ppsd.formats.safetensors_file import Digest

COMPLETE = "COMPLETE"
VERSION = 1
_CHUNK = 1 << 22


class Manifest(NamedTuple):
    """What COMPLETE says: the optimizer step, and of every other file of the folder, by its path there, the digest."""

    step: int
    files: dict[str, Digest]


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
        files = read_manifest(folder).files
    except ValueError as error:
        return str(error)
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
    files = list(read_manifest(folder).files.items())
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda item: _readable_digest(folder / item[0]), files))
    for (name, wanted), seen in zip(files, read):
        if seen != wanted:
            return f"{name} is damaged: {seen if isinstance(seen, str) else 'its checksum differs'}"
    return None


def read_manifest(folder: Path) -> Manifest:
    """Raises ValueError, which says of the folder ("it ..."), where it has none that this ppsd can read."""
    try:
        saved = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        if saved["version"] != VERSION:
            raise ValueError(f"version {saved['version']}; this ppsd reads {VERSION}")
        files = {name: Digest(int(nbytes), int(crc32)) for name, (nbytes, crc32) in saved["files"].items()}
        return Manifest(int(saved["step"]), files)
    except FileNotFoundError as error:
        raise ValueError(f"it has no {COMPLETE} file") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its {COMPLETE} file cannot be read: {error!r}") from error


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
