"""Records that are kept from training, to measure the loss on (`--validation_split`).

What decides is a hash of what a record is, not where it stands: a file's name in its folder, or the image itself. So
more data, another order or a continued run never move a record to the other side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from ppsd.data.indexed import IndexedSource, choose
from ppsd.data.seeds import Draw, derive_seed
from ppsd.data.source import ReadPart, Source
from ppsd.data.tally import CONDITION
from ppsd.data.window import AnyRecord
from ppsd.types import BadRecord, LatentRecord, Record

HELD_OUT = f"{CONDITION}held out by --validation_split"
NOT_HELD_OUT = f"{CONDITION}not held out by --validation_split"


def split_source(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    """The source without about `share` (above 0, below 1) of its records, and the source of those.

    Every record is in one of them, records that are the same in the same one. An indexed source of at least two
    different records has some on both sides; ValueError for one of fewer. The other records of a stream are
    BadRecords, of the reasons HELD_OUT and NOT_HELD_OUT.
    """
    assert 0 < share < 1
    if isinstance(source, IndexedSource):
        return _split_index(source, share, seed)
    train, held_out = (replace(source, read=_Side(source.read, share, seed, held_out)) for held_out in (False, True))
    return train, held_out


def _split_index(source: IndexedSource, share: float, seed: int) -> tuple[IndexedSource, IndexedSource]:
    places = np.array([_place(source.records.key(index), seed) for index in range(len(source.records))])
    if len(np.unique(places)) < 2:
        raise ValueError(f"--validation_split: {source.name} has fewer than two different records, and none to spare")
    lowest, highest = places.min(), places.max()
    held_out = (places < share) & (places < highest) | (places == lowest)
    train = choose(source, np.flatnonzero(~held_out))
    return train, replace(choose(source, np.flatnonzero(held_out)), bad=())


def _place(key: bytes, seed: int) -> float:
    """In [0, 1): where a record stands among all there could be."""
    number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (derive_seed(seed, Draw.HELD_OUT, number) >> 10) * 2.0**-53


@dataclass(frozen=True)
class _Side:
    """A reader of the records of one side; the others are BadRecords."""

    read: ReadPart
    share: float
    seed: int
    held_out: bool

    def __call__(
        self, path: str, start: int = 0, *, every: int = 1, offset: int = 0
    ) -> Iterator[tuple[int, AnyRecord]]:
        for number, record in self.read(path, start, every=every, offset=offset):
            if isinstance(record, BadRecord) or (_place(_content(record), self.seed) < self.share) == self.held_out:
                yield number, record
            else:
                yield number, BadRecord(NOT_HELD_OUT if self.held_out else HELD_OUT)


def _content(record: Union[Record, LatentRecord]) -> bytes:
    return np.ascontiguousarray(record.moments).tobytes() if isinstance(record, LatentRecord) else record.image
