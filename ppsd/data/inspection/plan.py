"""Which parts an inspection reads, in which order, and how much of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ppsd.data.inspection.job import PartJob
from ppsd.data.order import Shuffled
from ppsd.data.seeds import derive_seed, uniform
from ppsd.data.source import RecordSource

TILES = 24
STRIDE = 16  # a sample takes every 16th record of a part: reading on costs far less than decoding
PER_PART = 64
QUICK_PER_PART = 8


@dataclass(frozen=True)
class Distinct:
    """The parts of a source that differ, by index, in the list's order, and how often the list names each."""

    parts: np.ndarray
    repeats: np.ndarray


def read_sources(sources: Sequence[RecordSource]) -> list[int]:
    """The sources, by index, that training reads: not those of weight 0."""
    return [index for index, source in enumerate(sources) if source.weight != 0]


def distinct_parts(parts: Sequence[str]) -> Distinct:
    """Needs 24 bytes a part."""
    digests = (
        int.from_bytes(hashlib.blake2b(part.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
        for part in parts
    )
    hashes = np.fromiter(digests, np.uint64, len(parts))
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    order = np.argsort(first)
    return Distinct(first[order], counts[order])


def all_jobs(sources: Sequence[RecordSource], distinct: Sequence[Distinct], seed: int) -> Iterator[PartJob]:
    """Every part once, whole."""
    count = sum(len(parts.parts) for parts in distinct)
    for index, parts in enumerate(distinct):
        source = sources[index]
        for part, repeats in zip(parts.parts.tolist(), parts.repeats.tolist()):
            tiles = _tiles(seed, index, part, count)
            yield PartJob(index, part, source.parts[part], source.read, repeats, tiles=tiles)


def sample_jobs(sources: Sequence[RecordSource], seed: int, records: int) -> Iterator[PartJob]:
    """Jobs of which the first ones together have `records` records, or else all there are.

    The sources take turns; the parts of each come in a random order, and of each some of the records.
    """
    read = read_sources(sources)
    count = sum(len(sources[index].parts) for index in read)
    limit = max(PER_PART, -(-records // count))
    for turn in range(STRIDE):
        for index, part in _in_turn(sources, read, seed):
            offset = (derive_seed(seed, index, part) + turn) % STRIDE
            yield _some(
                sources,
                seed,
                index,
                part,
                min(count, -(-records // PER_PART)),
                every=STRIDE,
                offset=offset,
                limit=limit,
                again=turn > 0,
            )


def quick_jobs(sources: Sequence[RecordSource], seed: int, records: int) -> Iterator[PartJob]:
    """The first records of parts in a random order, the sources in turn: the fewer parts, the more of each."""
    read = read_sources(sources)
    limit = max(QUICK_PER_PART, -(-records // sum(len(sources[index].parts) for index in read)))
    for index, part in _in_turn(sources, read, seed):
        yield PartJob(index, part, sources[index].parts[part], sources[index].read, limit=limit)


def _some(sources: Sequence[RecordSource], seed: int, index: int, part: int, count: int, **how: int) -> PartJob:
    source = sources[index]
    return PartJob(index, part, source.parts[part], source.read, tiles=_tiles(seed, index, part, count), **how)  # type: ignore[arg-type]


def _in_turn(sources: Sequence[RecordSource], read: Sequence[int], seed: int) -> Iterator[tuple[int, int]]:
    """(source, part): one part of each source after the other."""
    orders = {index: Shuffled(len(sources[index].parts), seed, index) for index in read}
    for place in range(max(map(len, orders.values()))):
        for index, order in orders.items():
            if place < len(order):
                yield index, order[place]


def _tiles(seed: int, source: int, part: int, count: int) -> int:
    """How many samples of a part may get onto the contact sheet: of thousands of parts only a few are asked."""
    asked = 3 * TILES
    if count <= asked:
        return -(-asked // count)
    return 2 if uniform(seed, source, part) < asked / count else 0
