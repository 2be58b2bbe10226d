"""The container of cached latents: a safetensors file (https://huggingface.co/docs/safetensors), read piece by piece.

8 bytes little-endian length of a JSON header, the header, then the tensors without gaps. Read through any seekable
file and written from pieces that need not fit into memory, which the safetensors library does not do.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ppsd.formats.atomic import PathLike, atomic_write

DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "|u1"}
MAX_HEADER_BYTES = 100_000_000  # the library's own limit
HEAD_BYTES = 9


class NotSafetensors(Exception):
    """The file is something else."""


class Damaged(Exception):
    """Its header, or what it stands for, is not what a writer would have written."""


class CutShort(Exception):
    """The file ends before what its header promises."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is, as an absolute position in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def is_safetensors(head: bytes) -> bool:
    """Whether a file that starts with these bytes (at least HEAD_BYTES) may be one; no text and no gzip file does."""
    return len(head) >= HEAD_BYTES and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES and head[8:9] == b"{"


def read_header(file: BinaryIO) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, all of which are inside the file. Raises NotSafetensors, Damaged, CutShort."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        raise CutShort(f"{len(head)} bytes in all")
    if not is_safetensors(head):
        raise NotSafetensors(f"it starts with {head[:8]!r}")
    length = int.from_bytes(head[:8], "little")
    if 8 + length > size:
        raise CutShort(f"{size} bytes, the header alone has {length}")
    try:
        entries = json.loads(read_bytes(file, 8, length).decode("utf-8"))
        metadata = {str(key): str(value) for key, value in entries.pop("__metadata__", {}).items()}
        tensors = {name: _tensor(entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"damaged header: {type(error).__name__}: {error}") from error
    end = max((tensor.end for tensor in tensors.values()), default=0)
    if end > size:
        raise CutShort(f"{size} of {end} bytes")
    return metadata, tensors


def _tensor(entry: Mapping[str, Any], base: int) -> Tensor:
    dtype = np.dtype(DTYPES[entry["dtype"]])
    shape = tuple(int(size) for size in entry["shape"])
    begin, end = (int(place) for place in entry["data_offsets"])
    if min(shape, default=0) < 0 or begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - begin} bytes for {entry['dtype']} {list(shape)}")
    return Tensor(dtype, shape, base + begin, base + end)


def read_bytes(file: BinaryIO, begin: int, count: int) -> bytes:
    """`count` bytes from `begin` on. Raises CutShort when the file has fewer."""
    file.seek(begin)
    data = file.read(count)
    if len(data) < count:
        raise CutShort(f"{len(data)} of {count} bytes at {begin}")
    return data


def read_tensor(file: BinaryIO, tensor: Tensor) -> np.ndarray:
    """All of it, read-only. Raises CutShort."""
    return np.frombuffer(read_bytes(file, tensor.begin, tensor.end - tensor.begin), tensor.dtype).reshape(tensor.shape)


class Region:
    """Pieces of a tensor, which are asked for mostly one after the other: read in blocks of at least `block` bytes."""

    def __init__(self, file: BinaryIO, tensor: Tensor, block: int) -> None:
        self._file, self._tensor, self._block = file, tensor, block
        self._first, self._data = 0, b""

    def read(self, begin: int, count: int) -> bytes:
        """`count` bytes from byte `begin` of the tensor on. Raises CutShort."""
        if not self._first <= begin <= begin + count <= self._first + len(self._data):
            wanted = min(max(count, self._block), self._tensor.end - self._tensor.begin - begin)
            data = read_bytes(self._file, self._tensor.begin + begin, max(count, wanted))
            if not self._block:
                return data
            self._first, self._data = begin, data
        return self._data[begin - self._first : begin - self._first + count]


class TensorSpools:
    """Rows of tensors that grow: each tensor is a nameless temporary file, which vanishes with the process."""

    def __init__(self, folder: PathLike) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._entries: dict[str, tuple[str, list[int]]] = {}

    def __enter__(self) -> TensorSpools:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def append(self, name: str, row: np.ndarray) -> None:
        """One more row [...] of the tensor [N,...]; all rows of a name have one shape and type."""
        if name not in self._files:
            self._files[name] = self._open.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115
            self._entries[name] = (_dtype_name(row), [0, *row.shape])
        kind, shape = self._entries[name]
        assert (kind, shape[1:]) == (_dtype_name(row), list(row.shape)), f"{name}: {shape[1:]}, then {row.shape}"
        shape[0] += 1
        self._files[name].write(np.ascontiguousarray(row).data)

    def write(
        self,
        path: PathLike,
        first: Mapping[str, np.ndarray],
        last: Mapping[str, np.ndarray],
        metadata: Mapping[str, str],
    ) -> None:
        """`path`, whole or not at all: the tensors of `first`, the spooled ones by name, those of `last`."""
        spooled = sorted(self._files)
        entries = [(name, _dtype_name(value), list(value.shape)) for name, value in first.items()]
        entries += [(name, *self._entries[name]) for name in spooled]
        entries += [(name, _dtype_name(value), list(value.shape)) for name, value in last.items()]
        with atomic_write(path) as out:
            out.write(_header(entries, metadata))
            for value in first.values():
                out.write(np.ascontiguousarray(value).data)
            for name in spooled:
                self._files[name].seek(0)
                shutil.copyfileobj(self._files[name], out, 2**20)
            for value in last.values():
                out.write(np.ascontiguousarray(value).data)


def _dtype_name(value: np.ndarray) -> str:
    return next(name for name, code in DTYPES.items() if np.dtype(code) == value.dtype)


def _header(entries: Sequence[tuple[str, str, list[int]]], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded with blanks to 8 bytes so that the tensors are aligned."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    place = 0
    for name, kind, shape in entries:
        size = math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes is more than safetensors allows: make smaller parts")
    return len(text).to_bytes(8, "little") + text


def remove_temporaries(folder: Path, suffix: str) -> None:
    """Remove what a process that was killed had begun to write under names that end in `suffix`."""
    for temporary in folder.glob(f".*{suffix}.*.tmp"):
        temporary.unlink(missing_ok=True)
