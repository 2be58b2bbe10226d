"""What an epoch of an indexed source gives, in which order: pure functions of a few numbers.

An epoch is groups of records: of one each, or, in buckets, of as many as a batch has, all of one bucket. Nothing is
left out: the last group of a bucket is filled up with other images of the bucket.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Optional

import numpy as np

from ppsd.data.buckets import Buckets
from ppsd.data.indexed import IndexedSource
from ppsd.data.seeds import Draw, permutation


class EpochPlan(NamedTuple):
    """Groups in their order. records int32 [G,B]; sizes int32 [G,2]: width and height, where there are buckets.

    copies int32 [G,B]: how many of the record's repeats come earlier in the epoch; below 0 for what fills a group up.
    """

    records: np.ndarray
    copies: np.ndarray
    sizes: Optional[np.ndarray]


def spread(counts: np.ndarray, *numbers: int, shuffle: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Item i counts[i] times, in random order, its copies evenly spread: items, copies, both int32 [sum].

    Copy c of r is somewhere in the c-th of r equal stretches, so that equal counts give whole passes over all items.
    Without `shuffle` the items of such a pass are in their own order.
    """
    items = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    first = np.cumsum(counts, dtype=np.int64) - counts
    copies = np.arange(len(items)) - np.repeat(first, counts)
    offsets = permutation(len(items), *numbers) / max(1, len(items)) if shuffle else (items + 0.5) / max(1, len(counts))
    order = np.argsort((copies + offsets) / counts[items], kind="stable")
    return items[order], copies[order].astype(np.int32)


@lru_cache(maxsize=8)  # all lanes of a process walk through the same epochs
def epoch_plan(
    source: IndexedSource, seed: int, epoch: int, shuffle: bool, buckets: Optional[Buckets], group_size: int
) -> EpochPlan:
    """The groups of an epoch; their number is the same in all epochs."""
    records, copies = spread(source.counts, seed, Draw.INDEX, epoch, shuffle=shuffle)
    if buckets is None:
        return EpochPlan(records[:, None], copies[:, None], None)
    table, numbers = bucket_numbers(source, buckets)
    order = np.argsort(numbers[records], kind="stable")
    slots = np.split(order, np.cumsum(bucket_counts(source, buckets))[:-1])
    grouped = [_whole_groups(records[slot], copies[slot], group_size) for slot in slots]
    counts = np.array([len(members) for members, _ in grouped])
    of, turns = spread(counts, seed, Draw.GROUPS, epoch, shuffle=shuffle)
    places = (np.cumsum(counts) - counts)[of] + turns
    members, numbers = (np.concatenate(column) for column in zip(*grouped))
    return EpochPlan(members[places], numbers[places], table[of])


def _whole_groups(records: np.ndarray, copies: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive groups; for those that the last one lacks the first come again, as copies -1, -2, ..."""
    lacking = -len(records) % size
    fill = np.arange(lacking) % len(records)
    records = np.concatenate([records, records[fill]]).reshape(-1, size)
    return records, np.concatenate([copies, -1 - np.arange(lacking, dtype=np.int32)]).reshape(-1, size)


@lru_cache(maxsize=8)
def bucket_numbers(source: IndexedSource, buckets: Buckets) -> tuple[np.ndarray, np.ndarray]:
    """The sizes of the buckets that have images, int32 [K,2], and the bucket of each record, int64 [N]."""
    assert source.sizes is not None, "measured() comes first"
    sizes, inverse = np.unique(source.sizes, axis=0, return_inverse=True)
    of = np.array([buckets.of(int(width), int(height)) for width, height in sizes], np.int32).reshape(-1, 2)
    table, numbers = np.unique(of, axis=0, return_inverse=True)
    return table, numbers.reshape(-1)[inverse.reshape(-1)]


def bucket_counts(source: IndexedSource, buckets: Buckets) -> np.ndarray:
    """Images an epoch of each bucket that has any, repeats counted: int64 [K]."""
    table, numbers = bucket_numbers(source, buckets)
    return np.bincount(numbers, weights=source.counts, minlength=len(table)).astype(np.int64)


def epoch_groups(source: IndexedSource, buckets: Optional[Buckets], group_size: int) -> int:
    """The number of groups of an epoch."""
    if buckets is None:
        return source.length
    return int((-(-bucket_counts(source, buckets) // group_size)).sum())
