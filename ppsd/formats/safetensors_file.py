"""safetensors files, written and read one tensor at a time (https://github.com/huggingface/safetensors#format).

The safetensors library wants all tensors in memory at once; a checkpoint must not double what training holds.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional, Protocol

import numpy as np

from ppsd.formats.atomic import PathLike, naming

DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,  # numpy has none: the bits
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class Spec(NamedTuple):
    """What a header says of one tensor: a key of DTYPES and a shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize)


class Digest(NamedTuple):
    """What a file held when it was written."""

    nbytes: int
    crc32: int


def write_order(specs: Mapping[str, Spec]) -> list[str]:
    """The names, those of wide numbers first: every tensor then starts at a multiple of its item size."""
    return sorted(specs, key=lambda name: -np.dtype(DTYPES[specs[name].dtype]).itemsize)


def write_safetensors(
    path: PathLike,
    specs: Mapping[str, Spec],
    read: Callable[[str], np.ndarray],
    metadata: Optional[Mapping[str, str]] = None,
) -> Digest:
    """Write and flush to the disk; `read(name)` is called once for each tensor, in `write_order`, when its turn comes.

    OSErrors name `path`.
    """
    with naming(path), open(path, "wb") as file:
        header = _header(specs, metadata or {})
        file.write(header)
        size, crc = len(header), zlib.crc32(header)
        for name in write_order(specs):
            array, wanted = read(name), specs[name]
            assert (array.shape, array.dtype) == (wanted.shape, DTYPES[wanted.dtype]), name
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            file.write(data)
            size, crc = size + data.nbytes, zlib.crc32(data, crc)
            del array, data  # before the next one is made
        file.flush()
        os.fsync(file.fileno())
    return Digest(size, crc)


def _header(specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    """The length (8 bytes, little-endian) and the JSON, padded to a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in write_order(specs):
        end = start + specs[name].nbytes
        entries[name] = {"dtype": specs[name].dtype, "shape": list(specs[name].shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class TensorSource(Protocol):
    """Tensors by name, read one at a time: a SafetensorsFile, or what another process reads of one."""

    path: Path
    specs: dict[str, Spec]
    metadata: dict[str, str]

    def read(self, name: str) -> np.ndarray: ...


class SafetensorsFile:
    """Reads tensors by name; only the header is held. ValueError, naming the file, if it is not whole."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{self.path} is missing")
        try:
            entries, data_start, size = self._entries()
            self.metadata: dict[str, str] = entries.pop("__metadata__", {})
            self.specs = {name: Spec(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
            self._starts = {name: data_start + entry["data_offsets"][0] for name, entry in entries.items()}
            end = max((self._starts[name] + spec.nbytes for name, spec in self.specs.items()), default=data_start)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path}: not a whole safetensors file: {error!r}") from error
        if end != size:
            raise ValueError(f"{self.path}: not a whole safetensors file: {size} bytes instead of {end}")

    def _entries(self) -> tuple[dict[str, Any], int, int]:
        """The header, where the data starts, and the size of the file, in bytes."""
        with naming(self.path), open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            return dict(json.loads(file.read(length))), 8 + length, size

    def read(self, name: str) -> np.ndarray:
        """bfloat16 comes as its bits, uint16."""
        spec, start = self.specs[name], self._starts[name]
        with naming(self.path):
            flat = np.fromfile(self.path, dtype=DTYPES[spec.dtype], count=math.prod(spec.shape), offset=start)
        if flat.nbytes != spec.nbytes:
            raise ValueError(f"{self.path}: {name} is cut short")
        return flat.reshape(spec.shape)
