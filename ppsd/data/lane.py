"""Lanes: V independent streams of samples, whose number never changes during a run, whoever reads them.

A lane draws each group of samples (one sample, without buckets) from one of the sources, by their weights. It walks
through a source epoch by epoch. Its own units of an epoch are segment 0; when none of their records could be used, it
borrows whole parts of the source, one a segment, until one has yielded a sample. So no lane is ever without samples
unless the whole source is without.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional, Union

import numpy as np

from ppsd.data.buckets import Buckets, Group, Size, make_groups
from ppsd.data.mixing import cumulative_weights, mixed_source
from ppsd.data.order import Unit, borrow_order, epoch_order
from ppsd.data.seeds import Draw, derive_seed, permutation
from ppsd.data.source import RecordSource
from ppsd.data.tally import Tally
from ppsd.data.window import AnyRecord, Item, Measure, WindowLimits, WindowReader
from ppsd.formats.urls import shown_url
from ppsd.types import BadRecord, LatentRecord, Record, Sample

logger = logging.getLogger(__name__)

_GROUPS = 8  # of a window with buckets, at least: records left over in their buckets have to share one
_BARREN = (1000, 100_000)  # records in a row without a sample that the user should hear of before the source ends

MakeSample = Callable[[Union[Record, LatentRecord], int, Size], Union[Sample, BadRecord]]


class Cursor(NamedTuple):
    """Where a lane stands in a source: `offset` groups into the window after line `line` of a unit of the segment."""

    epoch: int = 0
    segment: int = 0
    unit: int = 0
    line: int = 0
    offset: int = 0


@dataclass
class LaneState:
    """A lane's position: groups drawn so far and, by source index, the cursor after the last one from that source."""

    draws: int = 0
    cursors: dict[int, Cursor] = field(default_factory=dict)

    def advance(self, row: np.ndarray) -> None:
        """Move past the group whose samples have this cursor row (see `Lane.draw`)."""
        self.draws = int(row[1])
        self.cursors[int(row[2])] = Cursor(*(int(number) for number in row[3:]))


@dataclass(frozen=True)
class LaneSettings:
    """What all lanes of a run have in common.

    A draw gives one sample of `size` (width, height), or, with `buckets`, `group_size` samples of one bucket's size;
    for these `measure` tells the size of an image. buffer_size and buffer_bytes limit the undecoded records that a
    lane holds. filter: the expression that the sources' readers apply.
    """

    sources: Sequence[RecordSource]
    num_lanes: int
    seed: int
    buffer_size: int
    shuffle: bool
    make_sample: MakeSample
    size: Size = (0, 0)
    buffer_bytes: float = float("inf")
    buckets: Optional[Buckets] = None
    group_size: int = 1
    measure: Optional[Measure] = None
    filter: Optional[str] = None


class Lane:
    """One endless stream of groups of samples, from `state` on; the state given is not changed."""

    def __init__(self, settings: LaneSettings, index: int, state: LaneState) -> None:
        self._settings = settings
        self._index = index
        self._draws = state.draws
        self._cursors = dict(state.cursors)
        self._walks: dict[int, SourceWalk] = {}

    def open(self) -> int:
        """See that the source of the next group has been opened; returns its index."""
        settings = self._settings
        number = self._draws * settings.num_lanes + self._index  # the lanes are drawn from in turn
        source = mixed_source(settings.sources, settings.seed, number)
        if source not in self._walks:
            self._walks[source] = SourceWalk(settings, source, self._index, self._cursors.pop(source, None))
        return source

    def draw(self) -> tuple[list[Sample], Tally]:
        """The next group of samples and what was skipped before it.

        Their cursor is int64 [8]: lane, groups drawn from the lane, source, and the `Cursor` in that source.
        """
        source = self.open()
        tally = Tally()
        samples, cursor = self._walks[source].draw(tally)
        tally.used = len(samples)
        self._draws += 1
        row = np.array([self._index, self._draws, source, *cursor], dtype=np.int64)
        for sample in samples:
            sample.cursor = row
        return samples, tally


class SourceWalk:
    """One lane's way through one source, from `cursor` on (None: from the start)."""

    def __init__(self, settings: LaneSettings, source: int, lane: int, cursor: Optional[Cursor]) -> None:
        self._settings = settings
        self._index, self._source = source, settings.sources[source]
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
        samples, good = [], []
        for item in items:
            self._reader.read_ahead()
            sample = self._make(item, size, tally)
            if sample is not None:
                samples.append(sample)
                good.append(item)
        missing = self._settings.group_size - len(samples) if samples else 0
        for turn in range(missing):
            item = good[turn % len(good)]
            assert not isinstance(item.record, BadRecord)
            seed = derive_seed(samples[turn % len(good)].seed, Draw.AGAIN, turn)
            again = self._settings.make_sample(item.record, seed, size)
            assert isinstance(again, Sample)
            again.record = samples[turn % len(good)].record
            samples.append(again)
            tally.repeated += 1
        return samples

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


def _limits(settings: LaneSettings, source: int) -> WindowLimits:
    """The source's share of a lane's buffer: records of all sources are mixed over the same number of draws."""
    ends = cumulative_weights(settings.sources)
    share = ends[source] - (ends[source - 1] if source else 0.0)
    records = max(1, round(settings.buffer_size * share))
    if settings.buckets is not None:
        records = max(records, _GROUPS * settings.group_size)
    return WindowLimits(records, max(1.0, settings.buffer_bytes * share), settings.group_size)


def default_lanes(num_parts: int, devices: int) -> int:
    """Lanes of a run that names no number, where the smallest source has `num_parts` parts.

    64, so that 8 devices with 8 workers each still have one a worker; more for more devices; 8 when there are too few
    parts, because lanes that share a part each read it. Always a multiple of the number of devices.
    """
    wanted = next((lanes for lanes in (8 * devices, 64) if lanes >= 64 and lanes <= num_parts), 8)
    return -(-wanted // devices) * devices
