"""Where records come from: named, weighted lists of parts that can be read from any line on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional, Protocol, Union

import numpy as np

from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import read_part
from ppsd.types import BadRecord, Record


class ReadPart(Protocol):
    """Records of one part with their line numbers (from 1), after `start` lines, of the lines every/offset selects.

    Whatever is wrong is a BadRecord, never an exception. The same call gives the same records.
    """

    def __call__(
        self, path: str, start: int = 0, *, every: int = 1, offset: int = 0
    ) -> Iterator[tuple[int, Union[Record, BadRecord]]]: ...


@dataclass(frozen=True)
class RecordSource:
    """Parts that are mixed with those of other sources by weight; None in all sources: equal probability."""

    name: str
    parts: tuple[str, ...]
    read: ReadPart
    weight: Optional[float] = None


def laion_sources(file_list: str, dialect: str = "auto") -> list[RecordSource]:
    """The filelists that `file_list` names, as sources."""
    return [
        RecordSource(source.name, tuple(source.parts), partial(read_part, dialect=source.dialect), source.weight)
        for source in read_file_list(file_list, dialect)
    ]


def cumulative_weights(sources: Sequence[RecordSource]) -> np.ndarray:
    """Upper ends of the sources' shares of [0, 1) -> float64 [len(sources)]."""
    weights = np.array([1.0 if source.weight is None else source.weight for source in sources])
    ends = np.cumsum(weights)
    return ends / ends[-1]


def sources_digest(sources: Sequence[RecordSource]) -> str:
    """A short hash of the sources' part names (without folders, so that data may move), first sizes and weights."""
    facts = [[[Path(p).name for p in s.parts], [_size(p) for p in s.parts[:16]], s.weight] for s in sources]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def _size(part: str) -> int:
    """Bytes; -1 where there is no such file."""
    try:
        return Path(part).stat().st_size
    except OSError:
        return -1
