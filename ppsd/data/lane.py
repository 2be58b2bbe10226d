"""Lanes: V independent streams of samples, whose number never changes during a run, whoever reads them.

A lane draws each sample from one of the sources, chosen by weight. It walks through a source epoch by epoch. Its own
units of an epoch are segment 0; when none of their records could be used, it borrows whole parts of the source, one a
segment, until one has yielded a sample. So no lane is ever without samples unless the whole source is without.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional, Union

import numpy as np

from ppsd.data.order import Unit, borrow_order, epoch_order
from ppsd.data.seeds import Draw, derive_seed, permutation, uniform
from ppsd.data.source import RecordSource, cumulative_weights
from ppsd.data.tally import Tally
from ppsd.data.window import Item, WindowReader
from ppsd.types import BadRecord, Record, Sample

logger = logging.getLogger(__name__)

_BARREN = (1000, 100_000)  # records in a row without a sample that the user should hear of before the source ends

MakeSample = Callable[[Record, int], Union[Sample, BadRecord]]


class Cursor(NamedTuple):
    """Where a lane stands in a source: `offset` records into the window after line `line` of a unit of the segment."""

    epoch: int = 0
    segment: int = 0
    unit: int = 0
    line: int = 0
    offset: int = 0


@dataclass
class LaneState:
    """A lane's position: samples drawn so far and, by source index, the cursor after the last one from that source."""

    draws: int = 0
    cursors: dict[int, Cursor] = field(default_factory=dict)

    def advance(self, row: np.ndarray) -> None:
        """Move past the sample that has this cursor row (see `Lane.draw`)."""
        self.draws = int(row[1])
        self.cursors[int(row[2])] = Cursor(*(int(number) for number in row[3:]))


@dataclass(frozen=True)
class LaneSettings:
    """What all lanes of a run have in common."""

    sources: Sequence[RecordSource]
    num_lanes: int
    seed: int
    buffer_size: int
    shuffle: bool
    make_sample: MakeSample


class Lane:
    """One endless stream of samples, from `state` on; the state given is not changed."""

    def __init__(self, settings: LaneSettings, index: int, state: LaneState) -> None:
        self._settings = settings
        self._index = index
        self._draws = state.draws
        self._cursors = dict(state.cursors)
        self._ends = cumulative_weights(settings.sources)
        self._walks: dict[int, SourceWalk] = {}

    def draw(self) -> tuple[Sample, Tally]:
        """The next sample and what was skipped before it.

        The sample's cursor is int64 [8]: lane, samples drawn from the lane, source, and the `Cursor` in that source.
        """
        settings = self._settings
        number = uniform(settings.seed, Draw.SOURCE, self._index, self._draws)
        source = int(np.searchsorted(self._ends, number, side="right"))
        if source not in self._walks:
            self._walks[source] = SourceWalk(settings, source, self._index, self._cursors.pop(source, None))
        tally = Tally(used=1)
        sample, cursor = self._walks[source].draw(tally)
        self._draws += 1
        sample.cursor = np.array([self._index, self._draws, source, *cursor], dtype=np.int64)
        return sample, tally


class SourceWalk:
    """One lane's way through one source, from `cursor` on (None: from the start)."""

    def __init__(self, settings: LaneSettings, source: int, lane: int, cursor: Optional[Cursor]) -> None:
        self._settings = settings
        self._source = settings.sources[source]
        self._seed = derive_seed(settings.seed, source)
        self._lane = lane
        self._window_size = _share(settings, source)
        self._missed = Tally()
        self._open(cursor or Cursor())
        self._next_window()
        if cursor:
            self._used = True
            self._skip(cursor.offset)

    def draw(self, tally: Tally) -> tuple[Sample, Cursor]:
        """The next usable sample; what is skipped on the way is counted in `tally`.

        Raises ValueError when the source has not a single record that can be used.
        """
        while True:
            while self._offset < len(self._window):
                item = self._next_item()
                self._reader.read_ahead()
                sample = self._make(item, tally)
                if sample is not None:
                    self._used, self._missed = True, Tally()
                    return sample, self._cursor._replace(offset=self._offset)
            if not self._next_window():
                self._next_segment()

    def _open(self, cursor: Cursor) -> None:
        """Begin to read the cursor's segment at its unit and line."""
        parts = len(self._source.parts)
        if cursor.segment == 0:
            units = epoch_order(parts, self._settings.num_lanes, self._seed, cursor.epoch)[self._lane]
        else:
            units = borrow_order(parts, self._seed, cursor.epoch, self._lane)[cursor.segment - 1 : cursor.segment]
        self._reader = WindowReader(self._read, units, self._window_size, cursor.unit, cursor.line)
        self._cursor = cursor
        self._used = False

    def _read(self, unit: Unit, start: int) -> Iterator[tuple[int, Union[Record, BadRecord]]]:
        """The unit's records; what is wrong with a whole part comes from one of the lanes that share it."""
        records = self._source.read(self._source.parts[unit.part], start, every=unit.every, offset=unit.offset)
        return ((line, record) for line, record in records if (line - 1) % unit.every == unit.offset)

    def _next_window(self) -> bool:
        """Take the reader's next window; false when the segment has been read."""
        self._window: list[Optional[Item]] = [*self._reader.take()]
        self._offset = 0
        if not self._window:
            return False
        first = self._window[0]
        assert first is not None
        self._cursor = self._cursor._replace(unit=first.unit, line=first.before)
        self._order = np.arange(len(self._window))
        if self._settings.shuffle:
            self._order = permutation(len(self._window), self._seed, Draw.WINDOW, self._lane, *self._cursor[:4])
        return True

    def _next_item(self) -> Item:
        """The window's next record, which is forgotten here to free its memory."""
        place = self._order[self._offset]
        item, self._window[place] = self._window[place], None
        assert item is not None
        self._offset += 1
        return item

    def _skip(self, count: int) -> None:
        if count > len(self._window):
            raise ValueError(f"{self._source.name}: its parts have fewer records than when the checkpoint was saved")
        for _ in range(count):
            self._next_item()

    def _make(self, item: Item, tally: Tally) -> Optional[Sample]:
        part = self._reader.units[item.unit].part
        epoch, segment = self._cursor.epoch, self._cursor.segment
        borrower = self._lane if segment else -1  # so that a borrowed record differs from its owner's
        made: Union[Record, Sample, BadRecord] = item.record
        if isinstance(made, Record):
            seed = derive_seed(self._seed, Draw.RECORD, epoch, part, item.line, borrower)
            made = self._settings.make_sample(made, seed)
        if isinstance(made, Sample):
            return made
        assert isinstance(made, BadRecord)
        where = f"{self._source.parts[part]}:{item.line}"
        self._missed.add(made.reason, where, made.detail)
        if self._lane == 0 and self._missed.skipped in _BARREN:
            logger.warning("%s: no usable record for a long while: %s", self._source.name, str(self._missed))
        if not segment:  # the owner of a borrowed record counts it
            tally.add(made.reason, where, made.detail)
        return None

    def _next_segment(self) -> None:
        epoch, segment = self._cursor.epoch, self._cursor.segment
        if self._used:
            self._open(Cursor(epoch + 1))
        elif segment < len(self._source.parts):
            if segment == 0:
                self._missed = Tally()
            self._open(Cursor(epoch, segment + 1))
        else:
            raise ValueError(f"{self._source.name}: not one record of its {segment} parts can be used: {self._missed}")


def _share(settings: LaneSettings, source: int) -> int:
    """The source's share of a lane's buffer: records of all sources are mixed over the same number of draws."""
    ends = cumulative_weights(settings.sources)
    share = ends[source] - (ends[source - 1] if source else 0.0)
    return max(1, round(settings.buffer_size * float(share)))


def default_lanes(num_parts: int, devices: int) -> int:
    """Lanes of a run that names no number, where the smallest source has `num_parts` parts.

    64, so that 8 devices with 8 workers each still have one a worker; more for more devices; 8 when there are too few
    parts, because lanes that share a part each read it. Always a multiple of the number of devices.
    """
    wanted = next((lanes for lanes in (8 * devices, 64) if lanes >= 64 and lanes <= num_parts), 8)
    return -(-wanted // devices) * devices
