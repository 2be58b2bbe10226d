"""Buckets of indexed sources: nothing left out, every batch of one bucket, the same whoever reads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ppsd.data.bucket_table import sample_table, source_table
from ppsd.data.buckets import Buckets
from ppsd.data.config import StreamConfig
from ppsd.data.epoch_plan import epoch_groups, epoch_plan
from ppsd.data.indexed import IndexedSource, measured
from ppsd.data.lane import Lane, LaneState
from ppsd.data.source import records_per_epoch
from ppsd.data.tally import Tally
from ppsd.types import BadRecord, Record, Sample
from tests.data.numbered import drawn, numbered_source, numbers_of
from tests.data.streams import all_lanes, identity_sample, lane_settings

BUCKETS = Buckets(64, 32, 128, 16)
SHAPES = [(64, 64), (96, 64), (64, 96), (130, 50), (50, 140), (100, 100)]


def _source(count: int, repeats: Any = 1, **options: Any) -> IndexedSource:
    return measured(numbered_source(count, repeats, size_of=lambda index: SHAPES[index * index % 6], **options))


def _make(record: Record, seed: int, size: tuple[int, int]) -> Sample | BadRecord:
    made = identity_sample(record, seed)
    made.extras["size"] = np.array(size)
    return made


def _settings(source: IndexedSource, batch: int, **options: Any) -> Any:
    return lane_settings(source, **{"buckets": BUCKETS, "group_size": batch, "make_sample": _make, **options})


@pytest.mark.parametrize("repeats", [1, 3, [1 + n % 4 for n in range(41)]])
@pytest.mark.parametrize("batch", [1, 2, 4, 64])
@pytest.mark.parametrize("lanes", [1, 4, 64])
def test_an_epoch_has_every_image_and_whole_batches_of_one_bucket(repeats: Any, batch: int, lanes: int) -> None:
    source = _source(41, repeats)
    size = epoch_groups(source, BUCKETS, batch)
    settings = _settings(source, batch, num_lanes=lanes)
    streams = all_lanes(settings)
    for epoch in range(2):
        tally, groups = Tally(), []
        for number in range(epoch * size, (epoch + 1) * size):
            samples, found = streams[number % lanes].draw()
            tally.merge(found)
            groups.append(samples)
        assert {len(group) for group in groups} == {batch}
        for group in groups:
            shapes = {BUCKETS.of(*SHAPES[int(s.input_ids[1]) ** 2 % 6]) for s in group}
            assert shapes == {tuple(s.extras["size"].tolist()) for s in group}
            assert len(shapes) == 1
        own = Counter(int(s.input_ids[1]) for group in groups for s in group if s.record[2] >= 0)
        assert own == dict(enumerate(source.counts.tolist()))
        assert tally.used - tally.repeated == source.length
        fill = numbers_of(groups) - own
        assert sum(fill.values()) == tally.repeated
        assert len({s.seed for group in groups for s in group}) == size * batch
    assert records_per_epoch([source], _config(), batch) == size * batch


def _config(**flags: Any) -> StreamConfig:
    sides = {"min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
    return StreamConfig(resolution=64, enable_bucket=True, **sides, **flags)


def test_images_that_fill_up_are_others_where_there_are_others() -> None:
    source = measured(numbered_source(7, size_of=lambda index: (64, 64)))
    for group in drawn(_settings(source, 4), 0, 20):
        assert len({int(sample.input_ids[1]) for sample in group}) == 4
    fill = Counter(
        int(sample.input_ids[1])
        for group in drawn(_settings(source, 4), 0, 400)
        for sample in group
        if sample.record[2] < 0
    )
    assert len(fill) == 7  # each time another
    assert sum(fill.values()) == 200


def test_batches_of_all_buckets_come_all_the_time() -> None:
    """Not the short ones last, nor one bucket after the other."""
    source = _source(600)
    plan = epoch_plan(source, 0, 0, True, BUCKETS, 4)
    assert plan.sizes is not None
    sizes, where = np.unique(plan.sizes, axis=0, return_inverse=True)
    halves = [np.bincount(where.reshape(-1)[part], minlength=len(sizes)) for part in (slice(0, 75), slice(75, 150))]
    assert len(plan.records) == 150
    assert (np.abs(halves[0] - halves[1]) <= 2).all()
    assert plan.records.tolist() != epoch_plan(source, 0, 1, True, BUCKETS, 4).records.tolist()


def test_a_batch_of_which_nothing_can_be_decoded_is_replaced_by_another() -> None:
    def make(record: Record, seed: int, size: tuple[int, int]) -> Sample | BadRecord:
        index = int(record.caption.split(":")[1])
        bad = SHAPES[index * index % 6] in ((96, 64), (100, 100)) or index == 6
        return BadRecord("corrupt image", "x") if bad else _make(record, seed, size)

    source = _source(24)
    size = epoch_groups(source, BUCKETS, 4)
    settings = _settings(source, 4, make_sample=make)
    tally, groups = Tally(), []
    for number in range(size):
        samples, found = Lane(settings, number % 4, LaneState(number // 4)).draw()
        groups.append(samples)
        tally.merge(found)
    bad = {n for n in range(24) if SHAPES[n * n % 6] in ((96, 64), (100, 100)) or n == 6}
    assert tally.counts == {"corrupt image": len(bad)}
    assert set(numbers_of(groups)) == set(range(24)) - bad
    assert {len(group) for group in groups} == {4}
    assert len({sample.seed for group in groups for sample in group}) == 4 * size


def test_sources_with_buckets_take_turns_batch_by_batch() -> None:
    sources = [_source(9), _source(14, 2)]
    settings = lane_settings(*sources, buckets=BUCKETS, group_size=3, make_sample=_make, alternate=True, num_lanes=4)
    groups = drawn(settings, 0, 12)
    assert [{sample.record[0] for sample in group} for group in groups] == [{0}, {1}] * 6
    most = max(epoch_groups(source, BUCKETS, 3) for source in sources)
    assert records_per_epoch(sources, _config(alternate=True), 3) == 2 * 3 * most


def test_the_tables() -> None:
    source = measured(numbered_source(5, [1, 1, 1, 1, 3], name="dogs", size_of=lambda index: SHAPES[index // 2]))
    assert source_table(source, BUCKETS, 4).splitlines() == [
        "buckets of dogs, images and batches of 4 an epoch; to fill the last of each bucket 5 images come again:",
        "           size       images      batches",
        "        48 x 80            3            1",
        "        64 x 64            2            1",
        "        80 x 48            2            1",
    ]
    assert sample_table(np.array([[64, 64]] * 3 + [[99, 10]]), BUCKETS).splitlines() == [
        "buckets of 4 images checked:",
        "           size       images        share",
        "        64 x 64            3       75.0 %",
        "       128 x 32            1       25.0 %",
    ]
