"""Reading undecoded records in windows: lists of consecutive records that are shuffled and given out whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple, Union

from ppsd.data.order import Unit
from ppsd.types import BadRecord, Record

ReadUnit = Callable[[Unit, int], Iterator[tuple[int, Union[Record, BadRecord]]]]


class Item(NamedTuple):
    """A record read but not decoded: unit is an index into the reader's units; `before` lines of it come earlier."""

    unit: int
    before: int
    line: int
    record: Union[Record, BadRecord]


class WindowReader:
    """Windows of at most `size` records of `units`, from line `line` of the unit with index `unit` on.

    A window is determined by where it starts, so reading again from its first record's (unit, before) gives it again.
    """

    def __init__(self, read: ReadUnit, units: Sequence[Unit], size: int, unit: int = 0, line: int = 0) -> None:
        self.units = units
        self._size = size
        self._items = self._walk(read, unit, line)
        self._ahead: list[Item] = []

    def _walk(self, read: ReadUnit, first: int, start: int) -> Iterator[Item]:
        for index in range(first, len(self.units)):
            before = start if index == first else 0
            for line, record in read(self.units[index], before):
                yield Item(index, before, line, record)
                before = line

    def read_ahead(self) -> bool:
        """Read one record of the next window, so that the work is spread evenly; false when there is none to read."""
        item = next(self._items, None) if len(self._ahead) < self._size else None
        if item is not None:
            self._ahead.append(item)
        return item is not None

    def take(self) -> list[Item]:
        """The next window; empty when all units have been read."""
        while self.read_ahead():
            pass
        window, self._ahead = self._ahead, []
        return window
