"""Statistics of the order: every record once an epoch, all places equally likely, neighbours apart, exact mixing."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from ppsd.data.config import StreamConfig
from ppsd.data.lane import Lane, LaneState
from ppsd.data.loader import StreamLoader
from ppsd.data.order import borrow_order, epoch_order
from ppsd.data.seeds import derive_seed
from ppsd.data.stream import SampleStream
from tests.benchmarks.recipe_stream import shuffled
from tests.benchmarks.shuffle_delay import leaving_at_once, shuffle_delays
from tests.data.streams import all_lanes, counted_source, epoch_of, lane_settings, places
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.tiny import tiny_tokenizer

DEFAULT_BUFFER = next(f.default for f in fields(StreamConfig) if f.name == "buffer_size")


def examples(count: int) -> settings:
    """The same `count` examples at every run."""
    return settings(max_examples=count, derandomize=True, database=None, deadline=None)


def chi_square(counts: np.ndarray) -> float:
    """Of counts that all have the same expectation; degrees of freedom: len(counts) - 1."""
    expected = counts.mean()
    return float(((counts - expected) ** 2 / expected).sum())


def limit(degrees: int) -> float:
    """What chi-square exceeds with probability 1e-4 (Wilson and Hilferty 1931)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3


@given(
    lines=strategies.lists(strategies.integers(0, 12), min_size=1, max_size=12).filter(any),
    lanes=strategies.integers(1, 9),
    seed=strategies.integers(0, 2**63 - 1),
    epoch=strategies.integers(0, 3),
    buffer=strategies.integers(1, 20),
    shuffle=strategies.booleans(),
)
@examples(120)
def test_every_record_once_an_epoch(
    lines: list[int], lanes: int, seed: int, epoch: int, buffer: int, shuffle: bool
) -> None:
    """The records that lanes read of their own are the whole set, each once, in any epoch.

    A lane that had no record of its own in an earlier epoch has borrowed; borrowed records have a segment above 0.
    """
    of_run = lane_settings(counted_source(lines), num_lanes=lanes, seed=seed, buffer_size=buffer, shuffle=shuffle)
    drawn = [sample for lane in all_lanes(of_run) for sample in epoch_of(lane, epoch)]
    own = places(sample for sample in drawn if sample.cursor[4] == 0)
    assert sorted(own) == [(part, line + 1) for part in range(len(lines)) for line in range(lines[part])]


@given(
    parts=strategies.one_of(strategies.integers(1, 300), strategies.sampled_from([16_384, 16_385, 21_001])),
    lanes=strategies.integers(1, 96),
    seed=strategies.integers(0, 2**63 - 1),
    epoch=strategies.integers(0, 10**6),
)
@examples(40)
def test_the_parts_of_an_epoch_are_a_permutation(parts: int, lanes: int, seed: int, epoch: int) -> None:
    order = epoch_order(parts, lanes, seed, epoch)
    units = Counter(unit for lane in order for unit in islice(lane, 0, None))
    assert set(units.values()) == {1}
    assert sum(1 / unit.every for unit in units) == pytest.approx(parts)
    assert len({unit.part for unit in units}) == parts
    lengths = [len(lane) for lane in order]
    assert max(lengths) - min(lengths) <= 1


def test_five_million_parts_are_found_without_a_list_of_them() -> None:
    """No two of 64 lanes, a thousand places in each, name the same part, and the numbers fill the range evenly."""
    order = epoch_order(5_000_000, 64, seed=1, epoch=7)
    assert sum(len(lane) for lane in order) == 5_000_000
    parts = [lane[index].part for lane in order for index in range(0, len(lane), 79)]
    assert len(parts) > 60_000
    assert len(set(parts)) == len(parts)
    assert chi_square(np.bincount(np.array(parts) // 50_000, minlength=100)) < limit(99)


@pytest.mark.parametrize("parts", [24, 24_000])
def test_a_part_is_equally_likely_at_every_place_and_in_every_lane(parts: int) -> None:
    lanes, epochs = 8, 1500
    slots = 24  # a lane's units, in equal bins
    of_lane, of_place, first = np.zeros(lanes), np.zeros((lanes, slots)), np.zeros(parts)
    for epoch in range(epochs):
        order = epoch_order(parts, lanes, seed=5, epoch=epoch)
        for lane in order:
            first[lane[0].part] += 1
        if parts == slots:
            for index, lane in enumerate(order):
                for place, unit in enumerate(lane):
                    if unit.part == 3:
                        of_lane[index] += 1
                        of_place[index, place] += 1
    binned = first.reshape(24, -1).sum(axis=1)
    assert chi_square(binned) < limit(23)
    if parts == slots:
        assert of_lane.sum() == epochs
        assert chi_square(of_lane) < limit(7)
        assert chi_square(of_place[:, :3].ravel()) < limit(23)


def test_consecutive_epochs_are_independent() -> None:
    """The shift of a part's place from one epoch to the next takes all values equally often (cyclically)."""
    parts, epochs = 16, 400
    places_ = []
    for epoch in range(epochs):
        (lane,) = epoch_order(parts, 1, seed=2, epoch=epoch)
        places_.append(np.argsort([unit.part for unit in lane]))
    shifts = np.diff(np.array(places_), axis=0) % parts
    assert chi_square(np.bincount(shifts[:, 0], minlength=parts)) < limit(parts - 1)
    assert chi_square(np.bincount(shifts.ravel(), minlength=parts)) < limit(parts - 1)


def drawn_lines(per_part: int, count: int, seed: int = 0, buffer: int = DEFAULT_BUFFER) -> np.ndarray:
    """Number of the record in reading order, of the second epoch of one lane, in the order they come out [count].

    The first epoch of a run begins with smaller windows.
    """
    parts = count // per_part
    one = lane_settings(counted_source([per_part] * parts), num_lanes=1, seed=seed, buffer_size=buffer)
    rank = {unit.part: place for place, unit in enumerate(epoch_order(parts, 1, derive_seed(seed, 0), 1)[0])}
    drawn = places(epoch_of(Lane(one, 0, LaneState()), 1))
    return np.array([rank[part] * per_part + line - 1 for part, line in drawn])


def test_records_that_lay_side_by_side_come_out_far_apart() -> None:
    """In a full buffer of m shuffled records two neighbours are (m + 1) / 3 apart on average."""
    lines = drawn_lines(1000, 20_000)
    place = np.argsort(lines)
    distance = np.abs(np.diff(place))
    m = DEFAULT_BUFFER
    assert distance.mean() > 0.95 * (m + 1) / 3
    assert (distance == 1).mean() < 1.2 * 2 / m + 0.002  # 2 / m by chance; 1 without shuffling
    assert np.median(distance) > m / 5


def test_a_record_is_equally_likely_at_every_place_of_its_window() -> None:
    """Windows of m consecutive records, each in an order of its own: chi-square of where they go."""
    m, windows = 20, 1000
    lines = drawn_lines(m * windows // 4, m * windows, buffer=m).reshape(windows, m)
    base = lines.min(axis=1, keepdims=True)
    assert (np.sort(lines - base, axis=1) == np.arange(m)).all()
    for line in range(0, m, 3):
        where = (lines - base == line).argmax(axis=1)
        assert chi_square(np.bincount(where, minlength=m)) < limit(m - 1)
    moves = (np.argsort(lines - base, axis=1) - np.arange(m)) % m
    assert chi_square(np.bincount(moves.ravel(), minlength=m)) < limit(m - 1)


def test_hardly_a_record_leaves_the_default_buffer_right_after_it_was_read() -> None:
    source = counted_source([125] * 16)
    at_once = leaving_at_once(lane_settings(source, num_lanes=8, buffer_size=DEFAULT_BUFFER), 1000)
    assert at_once <= 0.01
    delays = shuffle_delays(lane_settings(source, num_lanes=8, buffer_size=DEFAULT_BUFFER), 1000)
    assert DEFAULT_BUFFER / 2 < delays.mean() < 2 * DEFAULT_BUFFER


def test_most_records_leave_the_public_recipe_s_buffer_at_once() -> None:
    """What is avoided: taking from the end to which the next sample is appended, shuffling every 5 of them."""
    drawn = list(islice(shuffled(iter(range(100_000)), 1000, 5), 20_000))
    at_once = np.mean([item == 999 + place for place, item in enumerate(drawn) if place])
    assert 0.79 < at_once < 0.81


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.5, 0.3, 0.2), (1.0, 0.0, 7.0, 2.0), (None, None, None)])
@pytest.mark.parametrize("lanes", [1, 8])
def test_mixing_is_exact_over_a_window(weights: tuple[float | None, ...], lanes: int) -> None:
    """Of each 1000 consecutive draws of the run a source gets its share, rounded, and in the long run its share."""
    sources = [counted_source([50], name=str(i), weight=weight) for i, weight in enumerate(weights)]
    many = lane_settings(*sources, num_lanes=lanes, seed=3)
    stream = iter(SampleStream(many, range(lanes), {lane: LaneState() for lane in range(lanes)}))
    drawn = np.array([group[0].cursor[2] for group, _ in islice(stream, 8000)]).reshape(8, 1000)
    shares = np.array([1.0 if weight is None else weight for weight in weights])
    shares = shares / shares.sum() * 1000
    counts = np.array([np.bincount(window, minlength=len(weights)) for window in drawn])
    assert (np.abs(counts - shares) < 1 + 1e-9).all()
    assert (np.abs(counts.cumsum(axis=0) - shares * np.arange(1, 9)[:, None]) <= 2).all()
    assert len({tuple(window) for window in drawn}) == 8  # but no two windows in the same order


def test_mixing_has_no_long_runs_of_a_source() -> None:
    """In a random order of 500 of each, a run of one source is longer than 20 with probability 0.0005 a window."""
    sources = [counted_source([50], name=name, weight=1.0) for name in "ab"]
    stream = iter(SampleStream(lane_settings(*sources, num_lanes=1), [0], {0: LaneState()}))
    drawn = np.array([group[0].cursor[2] for group, _ in islice(stream, 4000)])
    ends = np.flatnonzero(np.diff(drawn)) + 1
    runs = np.diff(np.concatenate([[0], ends, [len(drawn)]]))
    assert runs.max() <= 20
    assert 1800 < len(runs) < 2200  # 2000 by chance


def test_the_loader_gives_every_record_of_real_parts_once_an_epoch(tmp_path: Path) -> None:
    """By captions, over files: 3 lanes' worth of parts for 4 lanes, read by 2 worker processes."""
    tokenizer = tiny_tokenizer()
    captions = [f"{first} {second}" for first in "abcdefgh" for second in "abcdefgh"][:57]
    lines = [part_line(caption, jpeg_bytes(24, 24)) for caption in captions]
    parts = [write_lines(tmp_path / f"part-{p}.gz", lines[p::3], compress=True) for p in range(3)]
    config = StreamConfig(
        str(write_lists(tmp_path, {"set": parts})), resolution=16, num_lanes=4, caption_dropout_rate=0.0
    )
    stream = StreamLoader(config, tokenizer, batch_size=1, num_workers=2)
    epochs: dict[int, list[tuple[int, ...]]] = {}
    for batch in islice(stream, 57 * 3):
        epochs.setdefault(int(batch["cursor"][0, 3]), []).append(tuple(batch["input_ids"].numpy()[0].tolist()))
    stream.close()
    expected = {
        tuple(tokenizer(c, padding="max_length", truncation=True, max_length=77)["input_ids"]) for c in captions
    }
    assert len(expected) == 57
    assert len(epochs[0]) == 57
    assert set(epochs[0]) == set(epochs[1]) == expected
    assert epochs[0] != epochs[1][:57]


def test_borrowing_tries_every_part_once_in_an_order_of_the_lane() -> None:
    for parts in (1, 7, 20_000):
        orders = [list(islice(borrow_order(parts, 4, 0, lane), parts)) for lane in range(3)]
        assert all(sorted(order) == list(range(parts)) for order in orders)
        assert parts == 1 or len({tuple(order) for order in orders}) == 3
