"""Names for people of what the stream gave or is about to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ppsd.data.indexed import IndexedSource
from ppsd.data.order import Unit, borrow_order, epoch_order
from ppsd.data.seeds import derive_seed
from ppsd.data.settings import Cursor, LaneSettings, LaneState
from ppsd.data.source import Source
from ppsd.formats.urls import shown_url


def record_names(sources: Sequence[Source], records: np.ndarray) -> list[str]:
    """ "part:line" of each row (source, part in it, line or row) of int64 [B,3]; of an indexed source, the image."""
    return [_name(sources[source], part, line) for source, part, line in records.tolist()]


def _name(source: Source, part: int, line: int) -> str:
    if isinstance(source, IndexedSource):
        return source.records.where(part)
    return f"{shown_url(source.parts[part])}:{line}"


def waited_for(settings: LaneSettings, states: Mapping[int, LaneState], workers: int) -> str:
    """Which lane's sample comes next, from which worker, and where the lane was last seen.

    states: of one device's lanes, in the order in which it draws from them.
    """
    lanes = list(states)
    lane = min(lanes, key=lambda number: states[number].draws)  # they are drawn from in turn: the first of the lowest
    count = min(workers, len(lanes))
    worker = f"data worker {lanes.index(lane) % count}, " if count else ""
    cursors = states[lane].cursors or {0: Cursor()}
    places = [_place(settings, lane, source, cursor) for source, cursor in cursors.items()]
    return f"{worker}lane {lane}, at or after {' or '.join(places)}"


def _place(settings: LaneSettings, lane: int, source: int, cursor: Cursor) -> str:
    found = settings.sources[source]
    if isinstance(found, IndexedSource):
        return f"group {cursor.line} of epoch {cursor.epoch} of {found.name}"
    parts = found.parts
    seed = derive_seed(settings.seed, source)
    units: Sequence[Unit]
    if cursor.segment == 0:
        units = epoch_order(len(parts), settings.num_lanes, seed, cursor.epoch)[lane]
    else:
        units = [Unit(borrow_order(len(parts), seed, cursor.epoch, lane)[cursor.segment - 1])]
    return f"{shown_url(parts[units[cursor.unit].part])} after line {cursor.line}"
