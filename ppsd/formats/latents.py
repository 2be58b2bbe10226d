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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from ppsd.formats.atomic import PathLike, naming
from ppsd.formats.laion import EMPTY_PART, UNREADABLE_PART
from ppsd.formats.latent_part import (
    CORRUPT_LATENTS,
    FORMAT,
    VERSION,
    Fingerprint,
    LatentPart,
    fingerprint_in,
)
from ppsd.formats.latent_rows import DTYPES, EMPTY_HIDDEN, LatentRows, crc32
from ppsd.formats.opening import open_input
from ppsd.formats.safetensors_part import (
    CutShort,
    Damaged,
    NotSafetensors,
    TensorSpools,
    read_header,
)
from ppsd.types import BadRecord, LatentRecord

SUFFIX = ".safetensors"

NOT_LATENTS = "not a latents file"
TRUNCATED_LATENTS = "truncated latents file"

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
            part = LatentPart(file, path, fingerprint, every)
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
            return fingerprint_in(metadata), metadata.get("origin", "")
    except (CutShort, Damaged, NotSafetensors) as error:
        raise ValueError(f"{path}: not a latents file: {error}") from error


def read_bad(path: PathLike) -> tuple[int, list[tuple[int, BadRecord]]]:
    """How many records a part has, and those of them that are bad. Errors as in read_fingerprint."""
    try:
        with open_input(path, seekable=True) as file:
            part = LatentPart(file, path)
            bad = [(int(part.numbers[i]), part.read(i)) for i in np.flatnonzero(part.sizes[:, 0] == 0)]
    except (CutShort, Damaged, NotSafetensors) as error:
        raise ValueError(f"{path}: not a whole latents file: {error}") from error
    return len(part.numbers), [(number, record) for number, record in bad if isinstance(record, BadRecord)]


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
    with naming(path), TensorSpools(Path(path).parent) as spools:
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
