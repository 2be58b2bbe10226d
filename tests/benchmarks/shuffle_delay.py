"""How long records stay in the shuffle buffer between being read and being used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ppsd.data.lane import Lane, LaneSettings, LaneState
from ppsd.data.source import RecordSource
from ppsd.types import BadRecord, Sample


def shuffle_delays(settings: LaneSettings, draws: int) -> np.ndarray:
    """Draws of its lane that each record waited -> int64 [num_lanes * draws]; 1: it was used in the draw after.

    The first `draws` samples of all lanes; nothing is decoded.
    """
    return np.concatenate([_delays(settings, lane, draws) for lane in range(settings.num_lanes)])


def leaving_at_once(settings: LaneSettings, draws: int) -> float:
    """Share of records that are used in the draw in which they were read, or in the next one."""
    return float((shuffle_delays(settings, draws) <= 1).mean())


def _delays(settings: LaneSettings, lane: int, draws: int) -> np.ndarray:
    entered: dict[int, tuple[Any, int]] = {}  # by identity; the record is kept, so that no other one gets it
    delays: list[int] = []

    def noted(source: RecordSource) -> RecordSource:
        def read(path: str, start: int = 0, *, every: int = 1, offset: int = 0) -> Iterator[tuple[int, Any]]:
            for number, record in source.read(path, start, every=every, offset=offset):
                if not isinstance(record, BadRecord):
                    entered[id(record)] = (record, len(delays))
                yield number, record

        return replace(source, read=read)

    def make_sample(record: Any, seed: int, size: tuple[int, int]) -> Sample:
        delays.append(len(delays) + 1 - entered.pop(id(record))[1])
        return Sample(np.zeros((3, 1, 1), np.uint8), np.zeros(1, np.int64), seed)

    sources = [noted(source) for source in settings.sources]
    stream = Lane(replace(settings, sources=sources, make_sample=make_sample), lane, LaneState())
    while len(delays) < draws:
        stream.draw()
    return np.array(delays[:draws])
