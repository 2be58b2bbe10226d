"""Sources without files and ways to compare streams, for the tests of the data room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ppsd.data.lane import Lane, LaneSettings, LaneState
from ppsd.data.source import RecordSource
from ppsd.types import BadRecord, Record, Sample

LineOf = Callable[[int, int], "Record | BadRecord"]


def good_line(part: int, line: int) -> Record:
    """A record that says where it is from."""
    return Record(b"", f"{part}:{line}")


def counted_source(
    lines_per_part: Sequence[int], name: str = "set", weight: float | None = None, line_of: LineOf = good_line
) -> RecordSource:
    """A source whose part p has lines_per_part[p] lines, which are `line_of(p, line)`."""

    def read(path: str, start: int = 0, *, every: int = 1, offset: int = 0) -> Iterator[tuple[int, Any]]:
        part = int(path)
        for line in range(start + 1, lines_per_part[part] + 1):
            if (line - 1) % every == offset:
                yield line, line_of(part, line)

    return RecordSource(name, tuple(str(part) for part in range(len(lines_per_part))), read, weight)


def identity_sample(record: Record, seed: int, size: tuple[int, int] = (0, 0)) -> Sample:
    """A sample whose input_ids are (part, line)."""
    part, line = record.caption.split(":")
    return Sample(np.zeros((3, 1, 1), np.uint8), np.array([int(part), int(line)]), seed)


def lane_settings(
    *sources: RecordSource,
    num_lanes: int = 4,
    seed: int = 0,
    buffer_size: int = 5,
    shuffle: bool = True,
    make_sample: Callable[..., Sample | BadRecord] = identity_sample,
    **options: Any,
) -> LaneSettings:
    return LaneSettings(sources, num_lanes, seed, buffer_size, shuffle, make_sample, **options)


def all_lanes(settings: LaneSettings) -> list[Lane]:
    return [Lane(settings, lane, LaneState()) for lane in range(settings.num_lanes)]


def epoch_of(lane: Lane, epoch: int, source: int = 0) -> list[Sample]:
    """The samples of one epoch of a lane that draws from one source; the lane has not been drawn from."""
    samples = []
    while (sample := lane.draw()[0][0]).cursor[3] <= epoch:
        if sample.cursor[3] == epoch:
            samples.append(sample)
    return samples


def places(samples: Iterable[Sample]) -> list[tuple[int, int]]:
    """(part, line) of each."""
    return [(int(sample.input_ids[0]), int(sample.input_ids[1])) for sample in samples]


def take(loader: Any, count: int) -> list[Any]:
    """The first batches of an iteration, which is ended then."""
    batches = iter(loader)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def fingerprints(batches: Iterable[Any]) -> list[list[str]]:
    """For each batch, a hash of each sample's seed, pixels and ids."""
    return [
        [
            hashlib.md5(seed.tobytes() + pixels.tobytes() + ids.tobytes()).hexdigest()
            for seed, pixels, ids in zip(batch["seed"], batch["pixels"].numpy(), batch["input_ids"].numpy())
        ]
        for batch in batches
    ]
