"""Arrays by key, in memory or as a file each, which several processes and runs may read and write at once.

FOLDER/KK/KEY.safetensors, where KK are the key's first two characters, is a safetensors file of one tensor, `value`
(F32). Its metadata: `ppsd_format` "cached array", `version` "1", the `key`, and `checksum`, CRC-32 of the key
and the shape as text and of the tensor's bytes. Files in FOLDER/.writing are not finished.
"""

from __future__ import annotations

import io
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Optional, Protocol

import numpy as np
from safetensors.numpy import save

from ppsd.formats.atomic import PathLike, naming
from ppsd.formats.latent_rows import crc32
from ppsd.formats.safetensors_part import CutShort, Damaged, NotSafetensors, read_header

FORMAT, VERSION = "cached array", "1"
_ABANDONED_SECONDS = 86400.0


class ArrayStore(Protocol):
    """What is read is what was written, or a ValueError; None where nothing was."""

    def read(self, key: str) -> Optional[np.ndarray]: ...

    def write(self, key: str, array: np.ndarray) -> None: ...

    def where(self, key: str) -> str:
        """For people."""


class ArrayMemory:
    """In this process, and in those that it forks later."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def read(self, key: str) -> Optional[np.ndarray]:
        return self.arrays.get(key)

    def write(self, key: str, array: np.ndarray) -> None:
        self.arrays[key] = np.ascontiguousarray(array)

    def where(self, key: str) -> str:
        return f"memory ({key})"


class ArrayFolder:
    """In a folder, which is made when it is written to. OSErrors name the file."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self._writing = self.folder / ".writing"
        self._made: set[Path] = set()

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def where(self, key: str) -> str:
        return str(self.path(key))

    def read(self, key: str) -> Optional[np.ndarray]:
        """Read-only. Raises ValueError, naming the file, where it is not as it was written."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return unpack_array(data, key)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def write(self, key: str, array: np.ndarray) -> None:
        """The file appears whole. It is not flushed to the disk, which is slow: what a power cut leaves of it
        fails its checksum."""
        path, temporary = self.path(key), self._writing / f"{key}.{secrets.token_hex(4)}"
        with naming(path):
            for folder in {path.parent, self._writing} - self._made:
                folder.mkdir(parents=True, exist_ok=True)
                self._made.add(folder)
            try:
                temporary.write_bytes(pack_array(key, array))
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise

    def remove_abandoned(self) -> None:
        """Delete what processes that were killed a day ago or more have left unfinished."""
        for path in self._writing.glob("*"):
            with suppress(FileNotFoundError, PermissionError):  # another process does the same; it is read-only
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()


def pack_array(key: str, array: np.ndarray) -> bytes:
    """The bytes of the file."""
    array = np.ascontiguousarray(array)
    checksum = _checksum(key, array.shape, array.reshape(-1).view(np.uint8).data)
    return save({"value": array}, {"ppsd_format": FORMAT, "version": VERSION, "key": key, "checksum": str(checksum)})


def unpack_array(data: bytes, key: str) -> np.ndarray:
    """What `pack_array` packed under this key, read-only. Raises ValueError saying what is wrong."""
    try:
        metadata, tensors = read_header(io.BytesIO(data))
    except (CutShort, Damaged, NotSafetensors) as error:
        raise ValueError(f"not a whole file: {error}") from error
    said = (metadata.get("ppsd_format"), metadata.get("version"), metadata.get("key"))
    if said != (FORMAT, VERSION, key) or "value" not in tensors:
        raise ValueError(f"not the {FORMAT} of version {VERSION} that its name promises")
    tensor = tensors["value"]
    body = memoryview(data)[tensor.begin : tensor.end]
    if metadata.get("checksum") != str(_checksum(key, tensor.shape, body)):
        raise ValueError("it has another checksum than it should")
    return np.frombuffer(body, tensor.dtype).reshape(tensor.shape)


def _checksum(key: str, shape: tuple[int, ...], body: memoryview) -> int:
    return int(crc32(body, crc32(f"{key} {list(shape)}".encode())))
