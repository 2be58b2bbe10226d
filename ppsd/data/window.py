"""Reading undecoded records in windows: lists of consecutive records that are shuffled and given out whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Union

from ppsd.data.buckets import Size
from ppsd.data.order import Unit
from ppsd.formats.extras import LazyMeta
from ppsd.types import BadRecord, LatentRecord, Record

AnyRecord = Union[Record, LatentRecord, BadRecord]
ReadUnit = Callable[[Unit, int], Iterator[tuple[int, AnyRecord]]]
Measure = Callable[[Union[Record, LatentRecord]], Union[Size, BadRecord]]

_RAMP = 8  # a run's first window has an eighth of the records, so that its first batch comes soon


class Item(NamedTuple):
    """A record read but not decoded: unit is an index into the reader's units; `before` lines of it come earlier.

    size: width and height of its image, where they are needed.
    """

    unit: int
    before: int
    line: int
    record: AnyRecord
    size: Optional[Size]


@dataclass(frozen=True)
class WindowLimits:
    """When a window is full: at `records` records or `num_bytes` bytes, and a multiple of `multiple` good ones."""

    records: int
    num_bytes: float = float("inf")
    multiple: int = 1


class WindowReader:
    """Windows of records of `units`, from line `line` of the unit with index `unit` on.

    A window is determined by where it starts, so reading again from its first record's (unit, before) gives it again.
    `measure` finds the size of an image, or what is wrong with it. `first`: these are the first records of a run.
    """

    def __init__(
        self,
        read: ReadUnit,
        units: Sequence[Unit],
        limits: WindowLimits,
        unit: int = 0,
        line: int = 0,
        measure: Optional[Measure] = None,
        first: bool = False,
    ) -> None:
        self.units = units
        self._limits, self._measure, self._first = limits, measure, first
        self._items = self._walk(read, unit, line)
        self._clear()

    def read_ahead(self) -> bool:
        """Read one record of the next window, so that the work is spread evenly; false when there is none to read."""
        item = None if self._full() else next(self._items, None)
        if item is None:
            return False
        self._ahead.append(item)
        self._bytes += _num_bytes(item.record)
        self._good += not isinstance(item.record, BadRecord)
        return True

    def take(self) -> list[Item]:
        """The next window; empty when all units have been read."""
        while self.read_ahead():
            pass
        window = self._ahead
        self._clear()
        return window

    def _clear(self) -> None:
        self._ahead: list[Item] = []
        self._bytes = self._good = 0

    def _full(self) -> bool:
        limits = self._limits
        if not self._ahead or self._good % limits.multiple:
            return False
        return self._bytes >= limits.num_bytes or len(self._ahead) >= self._ramped(limits.records)

    def _ramped(self, records: int) -> int:
        """The number of records of the window that is being read."""
        start = self._ahead[0]
        if not self._first or start.unit > 0:
            return records
        return min(records, max(records // _RAMP, start.before // self.units[0].every, 1))

    def _walk(self, read: ReadUnit, first: int, start: int) -> Iterator[Item]:
        for index in range(first, len(self.units)):
            before = start if index == first else 0
            for line, record in read(self.units[index], before):
                size = None
                if self._measure and not isinstance(record, BadRecord):
                    measured = self._measure(record)
                    if isinstance(measured, BadRecord):
                        record = measured
                    else:
                        size = measured
                yield Item(index, before, line, record, size)
                before = line


def _num_bytes(record: AnyRecord) -> int:
    """Further images count, too; other meta never did, and positions of earlier runs rest on that."""
    if isinstance(record, Record):
        return len(record.image) + (_image_bytes(record.meta) if record.meta else 0)
    if isinstance(record, LatentRecord):
        return int(record.moments.nbytes) + (0 if record.hidden is None else int(record.hidden.nbytes))
    return 0


def _image_bytes(meta: Mapping[str, Any]) -> int:
    if isinstance(meta, LazyMeta):  # which is not to be parsed for it
        return meta.image_bytes
    return sum(len(value) for value in meta.values() if isinstance(value, bytes))
