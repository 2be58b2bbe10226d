"""Sources whose records have numbers: image folders and data sets on a disk, small enough for an index in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Optional, Protocol, Union

import numpy as np

from ppsd.data.buckets import Size
from ppsd.data.window import AnyRecord
from ppsd.types import BadRecord


class Records(Protocol):
    """Records by number, read when they are asked for. Forked processes share what it takes to find them.

    The same number gives the same record; whatever is wrong with one is a BadRecord, never an exception.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> AnyRecord: ...

    def size(self, index: int) -> Union[Size, BadRecord]:
        """Width and height of the upright image, from its header, or what is wrong with it."""

    def where(self, index: int) -> str:
        """Which one that is, for people."""

    def caption(self, index: int) -> Optional[str]:
        """Its first caption, without a look at the image; None where that is not known."""

    def key(self, index: int) -> bytes:
        """What makes it that record, whatever the order and the folder: it decides what is held out."""

    def digest(self) -> str:
        """A hash of which records there are, in their order: the same means the same data."""


@dataclass(frozen=True, eq=False)
class IndexedSource:
    """Records of which every epoch has each exactly as often as its repeats say (one number: all as often).

    weight: as a RecordSource's. loss_weight: that of its samples. bad: what the index lacks, (where, why); it is
    counted once an epoch. sizes: int32 [N,2], width and height of each, where they are known: buckets need them.
    """

    name: str
    records: Records
    repeats: Union[int, Sequence[int], np.ndarray] = 1
    loss_weight: float = 1.0
    weight: Optional[float] = None
    bad: Sequence[tuple[str, BadRecord]] = ()
    sizes: Optional[np.ndarray] = None

    @cached_property
    def counts(self) -> np.ndarray:
        """How often an epoch has each record: int32 [N]."""
        return np.broadcast_to(np.asarray(self.repeats, np.int32), (len(self.records),))

    @property
    def length(self) -> int:
        """Samples of an epoch; in buckets it has some more (see ppsd.data.epoch_plan)."""
        return int(self.counts.sum(dtype=np.int64))

    @property
    def parts(self) -> Sequence[str]:
        """None: it is not made of part files."""
        return ()


class Chosen:
    """Some of other records, in the order of `indices`."""

    def __init__(self, records: Records, indices: np.ndarray) -> None:
        self._records, self._indices = records, np.asarray(indices, np.int32)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> AnyRecord:
        return self._records[int(self._indices[index])]

    def size(self, index: int) -> Union[Size, BadRecord]:
        return self._records.size(int(self._indices[index]))

    def where(self, index: int) -> str:
        return self._records.where(int(self._indices[index]))

    def caption(self, index: int) -> Optional[str]:
        return self._records.caption(int(self._indices[index]))

    def key(self, index: int) -> bytes:
        return self._records.key(int(self._indices[index]))

    def digest(self) -> str:
        chosen = hashlib.blake2b(self._indices.tobytes(), digest_size=8).hexdigest()
        return f"{self._records.digest()}/{chosen}"


def choose(source: IndexedSource, indices: np.ndarray, bad: Sequence[tuple[str, BadRecord]] = ()) -> IndexedSource:
    """The source of some of the records; `bad`: what else has been found to be wrong."""
    sizes = None if source.sizes is None else source.sizes[indices]
    records = Chosen(source.records, indices)
    return replace(source, records=records, repeats=source.counts[indices], bad=[*source.bad, *bad], sizes=sizes)


def measured(source: IndexedSource) -> IndexedSource:
    """The source with the sizes of its images, read from their headers; without those that have none."""
    if source.sizes is not None:
        return source
    count = len(source.records)
    sizes, bad = np.zeros((count, 2), np.int32), []
    for index in range(count):
        size = source.records.size(index)
        if isinstance(size, BadRecord):
            bad.append((source.records.where(index), size))
        else:
            sizes[index] = size
    return choose(replace(source, sizes=sizes), np.flatnonzero(sizes[:, 0]), bad)
