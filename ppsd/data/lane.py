"""Lanes: V independent streams of samples, whose number never changes during a run, whoever reads them.

A lane draws each group of samples (one sample, without buckets) from one of the sources, by their weights or in turn,
and walks through each of them (ppsd.data.walk: part files; ppsd.data.indexed_walk: records that have numbers).
"""

from __future__ import annotations

from typing import Union

import numpy as np

from ppsd.data.indexed import IndexedSource
from ppsd.data.indexed_walk import IndexedWalk
from ppsd.data.mixing import drawn_before, source_of
from ppsd.data.settings import Cursor, LaneSettings, LaneState
from ppsd.data.tally import Tally
from ppsd.data.walk import SourceWalk
from ppsd.types import Sample

__all__ = ["Cursor", "Lane", "LaneSettings", "LaneState", "default_lanes"]


class Lane:
    """One endless stream of groups of samples, from `state` on; the state given is not changed."""

    def __init__(self, settings: LaneSettings, index: int, state: LaneState) -> None:
        self._settings = settings
        self._index = index
        self._draws = state.draws
        self._cursors = dict(state.cursors)
        self._walks: dict[int, Union[SourceWalk, IndexedWalk]] = {}

    def open(self) -> int:
        """See that the source of the next group has been opened; returns its index."""
        settings = self._settings
        source = source_of(settings.sources, settings.seed, self._number(), settings.alternate)
        if source not in self._walks:
            cursor = self._cursors.pop(source, None)
            if isinstance(settings.sources[source], IndexedSource):
                self._walks[source] = IndexedWalk(settings, source)
            else:
                self._walks[source] = SourceWalk(settings, source, self._index, cursor)
        return source

    def draw(self) -> tuple[list[Sample], Tally]:
        """The next group of samples and what was skipped before it.

        Their cursor is int64 [8]: lane, groups drawn from the lane, source, and the `Cursor` in that source.
        """
        source = self.open()
        tally = Tally()
        samples, cursor = self._draw_from(source, tally)
        tally.used = len(samples)
        self._draws += 1
        row = np.array([self._index, self._draws, source, *cursor], dtype=np.int64)
        for sample in samples:
            sample.cursor = row
            sample.weight = self._settings.sources[source].loss_weight
        return samples, tally

    def _draw_from(self, source: int, tally: Tally) -> tuple[list[Sample], Cursor]:
        walk, settings = self._walks[source], self._settings
        if isinstance(walk, SourceWalk):
            return walk.draw(tally)
        return walk.draw(drawn_before(settings.sources, settings.seed, self._number(), settings.alternate), tally)

    def _number(self) -> int:
        """Of the next draw, counted over all lanes: they are drawn from in turn."""
        return self._draws * self._settings.num_lanes + self._index


def default_lanes(num_parts: int, devices: int) -> int:
    """Lanes of a run that names no number, where the smallest source has `num_parts` parts.

    64, so that 8 devices with 8 workers each still have one a worker; more for more devices; 8 when there are too few
    parts, because lanes that share a part each read it. Always a multiple of the number of devices.
    """
    wanted = next((lanes for lanes in (8 * devices, 64) if lanes >= 64 and lanes <= num_parts), 8)
    return -(-wanted // devices) * devices
