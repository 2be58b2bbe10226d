"""Cached latents: what a VAE (and perhaps the text encoder) made of the records of one part, as a safetensors file.

Version 1. A file stands for one part of a data set and holds all its N records in order, the bad ones too, so that a
stream over it is the stream over the part. Any safetensors library reads it. Its tensors, in this order:

    record_numbers  I64 [N]           numbers of the records in the part, from 1, increasing
    text_ends       I64 [N]           where each record's text ends in `text`
    sizes           I32 [N,2]         h, w of each record's moments; 0, 0 for a bad record
    checksums       U32 [N]           CRC-32 of each record's moments, then hidden, then text, as they are in the file
    empty_hidden    F32|F16 [L,D]     what the text encoder makes of the empty caption; only with `hidden`
    hidden          F32|F16 [M,L,D]   its last hidden states for the captions of the M good records, in order; optional
    moments.{h}x{w} F32|F16 [n,8,h,w] mean and log variance of the VAE's posterior, before the scaling factor, of the
                                      good records of this size, in order; one such tensor for each size
    text            U8 [T]            a JSON object in UTF-8 for each record: {"caption", "more_captions", "meta"},
                                      of which the last two may be missing, or {"reason", "detail"} of a bad record

Metadata: `ppsd_format` "latents"; `version` "1"; `fingerprint`, a JSON object that says which models and settings made
the file (see ppsd.trainers.latent_cache), equal in all parts that are trained on together; `origin`, which part it was
made from; `index_checksum`, CRC-32 of the bytes from record_numbers to empty_hidden.

float16 halves the file. It rounds by at most 2^-11 of a value; mean and log variance are of the order of 1 to 30.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, Union

import numpy as np

from ppsd.formats.atomic import PathLike
from ppsd.formats.laion import EMPTY_PART, UNREADABLE_PART
from ppsd.formats.latent_rows import DTYPES, EMPTY_HIDDEN, LatentRows, crc32, moments_name
from ppsd.formats.opening import open_input
from ppsd.formats.safetensors_part import (
    CutShort,
    Damaged,
    NotSafetensors,
    Tensor,
    TensorSpools,
    read_bytes,
    read_header,
    read_tensor,
)
from ppsd.types import BadRecord, LatentRecord

SUFFIX = ".safetensors"
FORMAT, VERSION = "latents", "1"

NOT_LATENTS = "not a latents file"
TRUNCATED_LATENTS = "truncated latents file"
CORRUPT_LATENTS = "corrupt latents"

_INDEX = ("record_numbers", "text_ends", "sizes", "checksums")
_TEXT_BLOCK = 2**16

Fingerprint = Mapping[str, Any]
Line = tuple[int, Union[LatentRecord, BadRecord]]


class Rounding(NamedTuple):
    """The largest absolute error that the type of the file made."""

    moments: float = 0.0
    hidden: float = 0.0


def read_latents(
    path: PathLike, start: int = 0, *, every: int = 1, offset: int = 0, fingerprint: Optional[Fingerprint] = None
) -> Iterator[Line]:
    """The records of a part with their numbers, by the contract of ppsd.formats.laion.read_part.

    Moments and hidden states come in the type of the file, read-only; where there are hidden states, those of the
    empty caption are meta["empty_hidden"]. Only the bytes of records that are given out are read.
    Raises ValueError when a `fingerprint` is given and the file is not of latents, or of latents with another one.
    """
    assert start >= 0
    assert 0 <= offset < every
    number = 1
    try:
        with open_input(path, seekable=True) as file:
            part = _Part(file, path, fingerprint)
            if not len(part.numbers):
                yield 1, BadRecord(EMPTY_PART, "no record in it")
            wanted = (part.numbers > start) & ((part.numbers - 1) % every == offset)
            for index in np.flatnonzero(wanted).tolist():
                number = int(part.numbers[index])
                yield number, part.read(index)
    except CutShort as error:
        yield number, BadRecord(TRUNCATED_LATENTS, str(error))
    except NotSafetensors as error:
        yield 1, BadRecord(NOT_LATENTS, str(error))
    except Damaged as error:
        yield 1, BadRecord(CORRUPT_LATENTS, str(error))
    except OSError as error:
        yield number, BadRecord(UNREADABLE_PART, error.strerror or str(error))


def read_fingerprint(path: PathLike) -> dict[str, Any]:
    """Raises ValueError when the file is not of latents, OSError when it cannot be read."""
    return read_origin(path)[0]


def read_origin(path: PathLike) -> tuple[dict[str, Any], str]:
    """Fingerprint and origin of a file. Errors as in read_fingerprint."""
    try:
        with open_input(path, seekable=True) as file:
            metadata = read_header(file)[0]
            return _fingerprint(metadata), metadata.get("origin", "")
    except (CutShort, Damaged, NotSafetensors) as error:
        raise ValueError(f"{path}: not a latents file: {error}") from error


def read_bad(path: PathLike) -> tuple[int, list[tuple[int, BadRecord]]]:
    """How many records a part has, and those of them that are bad. Errors as in read_fingerprint."""
    try:
        with open_input(path, seekable=True) as file:
            part = _Part(file, path, None)
            bad = [(int(part.numbers[i]), part.read(i)) for i in np.flatnonzero(part.sizes[:, 0] == 0)]
    except (CutShort, Damaged, NotSafetensors) as error:
        raise ValueError(f"{path}: not a whole latents file: {error}") from error
    return len(part.numbers), [(number, record) for number, record in bad if isinstance(record, BadRecord)]


def differences(found: Fingerprint, expected: Fingerprint) -> str:
    """Which entries of two fingerprints differ, on one line."""
    keys = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    return ", ".join(f"{key} {json.dumps(found.get(key))} instead of {json.dumps(expected.get(key))}" for key in keys)


def _fingerprint(metadata: Mapping[str, str]) -> dict[str, Any]:
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


class _Part:
    """An open file and its index. Raises CutShort, NotSafetensors, and ValueError for another fingerprint."""

    def __init__(self, file: BinaryIO, path: PathLike, expected: Optional[Fingerprint]) -> None:
        self._file = file
        try:
            metadata, self._tensors = read_header(file)
            fingerprint = _fingerprint(metadata)
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
        self._hidden = self._tensors.get("hidden")
        self._texts = (0, b"")

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
        parts = [self._row(self._tensors[moments_name(h, w)], int(self._rows[index]))] if h else []
        if h and self._hidden is not None:
            parts.append(self._row(self._hidden, int(self._good_before[index])))
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

    def _row(self, tensor: Tensor, row: int) -> np.ndarray:
        data = read_bytes(self._file, tensor.begin + row * tensor.row_bytes, tensor.row_bytes)
        return np.frombuffer(data, tensor.dtype).reshape(tensor.shape[1:])

    def _text(self, index: int) -> bytes:
        """Texts are read in blocks: seeking for each would cost more than reading."""
        begin = int(self._text_ends[index - 1]) if index else 0
        end, (first, block) = int(self._text_ends[index]), self._texts
        if not first <= begin <= end <= first + len(block):
            all_of_it = self._tensors["text"]
            count = min(max(end - begin, _TEXT_BLOCK), all_of_it.end - all_of_it.begin - begin)
            first, block = self._texts = begin, read_bytes(self._file, all_of_it.begin + begin, count)
        return block[begin - first : end - first]


def _without_channels(tensor: Tensor) -> tuple[int, ...]:
    """(n,h,w) of a tensor [n,C,h,w]."""
    return (tensor.shape[0], *tensor.shape[2:]) if len(tensor.shape) == 4 else ()


def write_latents(
    path: PathLike,
    records: Iterable[Line],
    fingerprint: Fingerprint,
    *,
    dtype: str = "float32",
    empty_hidden: Optional[np.ndarray] = None,
    origin: str = "",
) -> Rounding:
    """Write a part, whole or not at all, in memory that does not grow with its moments.

    Numbers increase; all good records have hidden states [L,D] (then empty_hidden [L,D] is needed, too), or none has.
    What is not JSON in `meta` becomes a list or a text. The bytes are a function of the arguments. Raises ValueError
    for values that `dtype` (float32, float16) cannot hold.
    """
    with TensorSpools(Path(path).parent) as spools:
        rows = LatentRows(spools, DTYPES[dtype], str(path))
        for number, record in records:
            rows.append(number, record, with_hidden=empty_hidden is not None)
        first = rows.index()
        if empty_hidden is not None:
            first[EMPTY_HIDDEN] = rows.rounded("hidden", empty_hidden)
        metadata = {
            "ppsd_format": FORMAT,
            "version": VERSION,
            "fingerprint": json.dumps(fingerprint, sort_keys=True),
            "origin": origin,
            "index_checksum": str(crc32(b"".join(value.tobytes() for value in first.values()))),
        }
        spools.write(path, first, {"text": np.frombuffer(rows.text, np.uint8)}, metadata)
    return Rounding(rows.errors["moments"], rows.errors["hidden"])
