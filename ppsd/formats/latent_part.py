"""An open file of cached latents (see ppsd.formats.latents), of which records are read by their index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, Optional

import numpy as np

from ppsd.formats.atomic import PathLike
from ppsd.formats.latent_rows import EMPTY_HIDDEN, crc32, moments_name
from ppsd.formats.safetensors_part import Damaged, NotSafetensors, Region, Tensor, read_header, read_tensor
from ppsd.formats.urls import is_url
from ppsd.types import BadRecord, LatentRecord

FORMAT, VERSION = "latents", "1"
CORRUPT_LATENTS = "corrupt latents"

Fingerprint = Mapping[str, Any]

_INDEX = ("record_numbers", "text_ends", "sizes", "checksums")
_TEXT_BLOCK = 2**16  # seeking for each text would cost more than reading
_REMOTE_BLOCK = 2**20  # of rows, where every seek is a request; records every so far apart are asked for one by one


def differences(found: Fingerprint, expected: Fingerprint) -> str:
    """Which entries of two fingerprints differ, on one line."""
    keys = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    return ", ".join(f"{key} {json.dumps(found.get(key))} instead of {json.dumps(expected.get(key))}" for key in keys)


def fingerprint_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("ppsd_format") != FORMAT or metadata.get("version") != VERSION:
        named = {key: metadata[key] for key in ("ppsd_format", "version") if key in metadata}
        raise NotSafetensors(f"its metadata should say ppsd_format {FORMAT}, version {VERSION}, and say {named}")
    try:
        fingerprint = json.loads(metadata["fingerprint"])
    except (KeyError, ValueError, RecursionError) as error:
        raise Damaged(f"damaged fingerprint: {error}") from error
    if not isinstance(fingerprint, dict):
        raise Damaged("damaged fingerprint: it is not a JSON object")
    return fingerprint


class LatentPart:
    """An open file and its index. Raises CutShort, NotSafetensors, and ValueError for another fingerprint."""

    def __init__(self, file: BinaryIO, path: PathLike, expected: Optional[Fingerprint] = None, every: int = 1) -> None:
        self._file = file
        try:
            metadata, self._tensors = read_header(file)
            fingerprint = fingerprint_in(metadata)
        except NotSafetensors as error:
            if expected is None:
                raise
            raise ValueError(f"{path}: not a part of cached latents, as the others of the list are: {error}") from error
        if expected is not None and fingerprint != expected:
            raise ValueError(f"{path}: cached otherwise than the rest: {differences(fingerprint, expected)}")
        index = self._read_index(metadata)
        self.numbers, self._text_ends, self.sizes, self._checksums = index[: len(_INDEX)]
        self._meta = {EMPTY_HIDDEN: index[-1]} if len(index) > len(_INDEX) else {}
        self._rows = self._places()
        self._good_before = np.cumsum(self._rows >= 0) - 1
        self._remote, self._every = is_url(str(path)), every
        self._texts = Region(file, self._tensors["text"], _TEXT_BLOCK)
        self._regions: dict[str, Region] = {}

    def _read_index(self, metadata: Mapping[str, str]) -> list[np.ndarray]:
        """What is read of every file, checked."""
        missing = [name for name in (*_INDEX, "text") if name not in self._tensors]
        if missing:
            raise Damaged(f"it lacks {', '.join(missing)}")
        names = [name for name in (*_INDEX, EMPTY_HIDDEN) if name in self._tensors]
        index = [read_tensor(self._file, self._tensors[name]) for name in names]
        if metadata.get("index_checksum") != str(crc32(b"".join(column.tobytes() for column in index))):
            raise Damaged("its index has another checksum than it should")
        if len({len(column) for column in index[: len(_INDEX)]}) > 1 or index[2].shape[1:] != (2,):
            raise Damaged("its index is not one of records")
        ends, text = index[1], self._tensors["text"]
        if (ends[-1] if len(ends) else 0) != text.end - text.begin:
            raise Damaged("its texts do not end where its index says")
        return index

    def _places(self) -> np.ndarray:
        """Which row of its moments tensor a record is -> int64 [N]; row -1 for a bad record."""
        rows = np.full(len(self.numbers), -1, dtype=np.int64)
        for h, w in np.unique(self.sizes, axis=0).tolist():
            if h == w == 0:
                continue
            here = np.flatnonzero((self.sizes == (h, w)).all(axis=1))
            tensor = self._tensors.get(moments_name(h, w))
            if tensor is None or _without_channels(tensor) != (len(here), h, w) or tensor.dtype.kind != "f":
                raise Damaged(f"{moments_name(h, w)} is not there or not of {len(here)} records")
            rows[here] = np.arange(len(here))
        return rows

    def read(self, index: int) -> LatentRecord | BadRecord:
        """Raises CutShort."""
        text = self._text(index)
        h, w = self.sizes[index].tolist()
        parts = [self._row(moments_name(h, w), int(self._rows[index]))] if h else []
        if h and "hidden" in self._tensors:
            parts.append(self._row("hidden", int(self._good_before[index])))
        checksum = 0
        for part in (*parts, text):
            checksum = crc32(part, checksum)
        if checksum != self._checksums[index]:
            return BadRecord(CORRUPT_LATENTS, "the record has another checksum than it should")
        return self._record(json.loads(text), parts)

    def _record(self, text: dict[str, Any], parts: list[np.ndarray]) -> LatentRecord | BadRecord:
        if not parts:
            return BadRecord(text["reason"], text["detail"])
        meta = {**text.get("meta", {}), **self._meta}
        hidden = parts[1] if len(parts) > 1 else None
        return LatentRecord(parts[0], text["caption"], meta, tuple(text.get("more_captions", ())), hidden)

    def _row(self, name: str, row: int) -> np.ndarray:
        tensor = self._tensors[name]
        size = tensor.row_bytes
        if name not in self._regions:
            block = _REMOTE_BLOCK if self._remote and 2 * self._every * size <= _REMOTE_BLOCK else 0
            self._regions[name] = Region(self._file, tensor, block)
        return np.frombuffer(self._regions[name].read(row * size, size), tensor.dtype).reshape(tensor.shape[1:])

    def _text(self, index: int) -> bytes:
        begin = int(self._text_ends[index - 1]) if index else 0
        return self._texts.read(begin, int(self._text_ends[index]) - begin)


def _without_channels(tensor: Tensor) -> tuple[int, ...]:
    """(n,h,w) of a tensor [n,C,h,w]."""
    return (tensor.shape[0], *tensor.shape[2:]) if len(tensor.shape) == 4 else ()
