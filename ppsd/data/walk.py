"""One lane's way through a source of part files.

It reads epoch by epoch. Its own units of an epoch are segment 0; when none of their records could be used, it borrows
whole parts of the source, one a segment, until one has yielded a sample. So no lane is ever without samples unless the
whole source is without.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Optional, Union

import numpy as np

from ppsd.data.buckets import Group, Size, make_groups
from ppsd.data.filling import stand_ins
from ppsd.data.mixing import cumulative_weights
from ppsd.data.order import Unit, borrow_order, epoch_order
from ppsd.data.seeds import Draw, derive_seed, permutation
from ppsd.data.settings import Cursor, LaneSettings
from ppsd.data.source import RecordSource
from ppsd.data.tally import Tally
from ppsd.data.window import AnyRecord, Item, WindowLimits, WindowReader
from ppsd.formats.urls import shown_url
from ppsd.types import BadRecord, LatentRecord, Record, Sample

logger = logging.getLogger(__name__)

_GROUPS = 8  # of a window with buckets, at least: records left over in their buckets have to share one
_BARREN = (1000, 100_000)  # records in a row without a sample that the user should hear of before the source ends


class SourceWalk:
    """One lane's way through one source, from `cursor` on (None: from the start)."""

    def __init__(self, settings: LaneSettings, source: int, lane: int, cursor: Optional[Cursor]) -> None:
        self._settings = settings
        self._index, self._source = source, _of_parts(settings, source)
        self._seed = derive_seed(settings.seed, source)
        self._lane = lane
        self._limits = _limits(settings, source)
        self._missed = Tally()
        self._open(cursor or Cursor())
        self._next_window()
        if cursor:
            self._used = True
            self._skip(cursor.offset)

    def draw(self, tally: Tally) -> tuple[list[Sample], Cursor]:
        """The next group with a usable record; what is skipped on the way is counted in `tally`.

        Raises ValueError when the source has not a single record that can be used.
        """
        while True:
            while self._offset < len(self._groups):
                samples = self._make_group(*self._next_group(), tally)
                if samples:
                    self._used, self._missed = True, Tally()
                    return samples, self._cursor._replace(offset=self._offset)
            if not self._next_window():
                self._next_segment()

    def _open(self, cursor: Cursor) -> None:
        """Begin to read the cursor's segment at its unit and line."""
        settings, parts = self._settings, len(self._source.parts)
        units: Sequence[Unit]
        if cursor.segment == 0:
            units = epoch_order(parts, settings.num_lanes, self._seed, cursor.epoch)[self._lane]
        else:
            units = [Unit(borrow_order(parts, self._seed, cursor.epoch, self._lane)[cursor.segment - 1])]
        first = cursor.epoch == cursor.segment == 0
        measure = settings.measure if settings.buckets else None
        self._reader = WindowReader(self._read, units, self._limits, cursor.unit, cursor.line, measure, first)
        self._cursor = cursor
        self._used = False

    def _read(self, unit: Unit, start: int) -> Iterator[tuple[int, AnyRecord]]:
        """The unit's records; what is wrong with a whole part comes from one of the lanes that share it."""
        records = self._source.read(self._source.parts[unit.part], start, every=unit.every, offset=unit.offset)
        return ((line, record) for line, record in records if (line - 1) % unit.every == unit.offset)

    def _next_window(self) -> bool:
        """Take the reader's next window; false when the segment has been read."""
        self._window: list[Optional[Item]] = [*self._reader.take()]
        self._offset = 0
        self._groups: list[Group] = []
        if not self._window:
            return False
        first = self._window[0]
        assert first is not None
        self._cursor = self._cursor._replace(unit=first.unit, line=first.before)
        order = np.arange(len(self._window))
        if self._settings.shuffle:
            order = permutation(len(self._window), self._seed, Draw.WINDOW, self._lane, *self._cursor[:4])
        self._groups = self._plan(order.tolist())
        return True

    def _plan(self, order: list[int]) -> list[Group]:
        """The window's groups in the order in which they are given out; with buckets, first what is in none."""
        settings = self._settings
        if settings.buckets is None:
            return [Group((place,), settings.size) for place in order]
        sizes = [item.size if item else None for item in self._window]
        unusable = tuple(place for place, size in enumerate(sizes) if size is None)
        latents = any(isinstance(item.record, LatentRecord) for item in self._window if item)
        groups = make_groups(sizes, order, settings.group_size, settings.buckets, crop_only=latents)
        return [Group(unusable, settings.size), *groups] if unusable else groups

    def _next_group(self) -> tuple[list[Item], Size]:
        """The window's next records, which are forgotten here to free their memory."""
        group = self._groups[self._offset]
        items = []
        for place in group.members:
            item, self._window[place] = self._window[place], None
            assert item is not None
            items.append(item)
        self._offset += 1
        return items, group.size

    def _skip(self, count: int) -> None:
        if count > len(self._groups):
            raise ValueError(f"{self._source.name}: its parts have fewer records than when the checkpoint was saved")
        for _ in range(count):
            self._next_group()

    def _make_group(self, items: list[Item], size: Size, tally: Tally) -> list[Sample]:
        """The samples of a group. Good ones stand in, differently cropped and noised, for those that are missing."""
        good: list[tuple[Union[Record, LatentRecord], Sample]] = []
        for item in items:
            self._reader.read_ahead()
            sample = self._make(item, size, tally)
            if sample is not None:
                assert not isinstance(item.record, BadRecord)
                good.append((item.record, sample))
        missing = self._settings.group_size - len(good) if good else 0
        tally.repeated += missing
        return [sample for _, sample in good] + stand_ins(good, missing, self._settings.make_sample, size)

    def _make(self, item: Item, size: Size, tally: Tally) -> Optional[Sample]:
        part = self._reader.units[item.unit].part
        epoch, segment = self._cursor.epoch, self._cursor.segment
        borrower = self._lane if segment else -1  # so that a borrowed record differs from its owner's
        made: Union[Record, LatentRecord, Sample, BadRecord] = item.record
        if not isinstance(made, BadRecord):
            seed = derive_seed(self._seed, Draw.RECORD, epoch, part, item.line, borrower)
            made = self._settings.make_sample(item.record, seed, size)  # type: ignore[arg-type]
        if isinstance(made, Sample):
            made.record = (self._index, part, item.line)
            return made
        assert isinstance(made, BadRecord)
        where = f"{shown_url(self._source.parts[part])}:{item.line}"
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


def _of_parts(settings: LaneSettings, index: int) -> RecordSource:
    source = settings.sources[index]
    assert isinstance(source, RecordSource)
    return source


def _limits(settings: LaneSettings, source: int) -> WindowLimits:
    """The source's share of a lane's buffer: records of all sources are mixed over the same number of draws."""
    ends = cumulative_weights(settings.sources)
    share = ends[source] - (ends[source - 1] if source else 0.0)
    records = max(1, round(settings.buffer_size * share))
    if settings.buckets is not None:
        records = max(records, _GROUPS * settings.group_size)
    return WindowLimits(records, max(1.0, settings.buffer_bytes * share), settings.group_size)
