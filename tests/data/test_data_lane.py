"""Lanes: what they visit, how they mix, how they borrow, and that a position is exact."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from ppsd.data import stream
from ppsd.data.lane import Lane, LaneState
from ppsd.data.mixing import mixed_source
from ppsd.data.stream import SampleStream
from ppsd.types import BadRecord, Record, Sample
from tests.data.streams import (
    all_lanes,
    counted_source,
    epoch_of,
    good_line,
    identity_sample,
    lane_settings,
    places,
)


@pytest.mark.parametrize("lines", [[7, 3, 9, 1, 12], [40], [10, 0, 30], [25] * 9])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_of_all_lanes_has_every_record_once(lines: list[int], epoch: int) -> None:
    settings = lane_settings(counted_source(lines), num_lanes=4)
    seen = Counter(place for lane in all_lanes(settings) for place in places(epoch_of(lane, epoch)))
    own = {place for place in seen if seen[place] == 1}
    assert {(part, line + 1) for part in range(len(lines)) for line in range(lines[part])} == set(seen)
    assert len(own) == len(seen) or 0 in lines  # a lane without a record of its own borrows


def test_records_of_an_epoch_have_their_own_seeds_and_the_next_epoch_other_ones() -> None:
    settings = lane_settings(counted_source([30, 30]), num_lanes=4)
    seeds = [Lane(settings, lane, LaneState()).draw()[0][0].seed for lane in range(4)]
    runs = [s.seed for lane in all_lanes(settings) for s in (lane.draw()[0][0] for _ in range(60))]
    assert len(set(seeds)) == 4
    assert len(set(runs)) == 240


def test_the_run_seed_changes_order_and_seeds() -> None:
    drawn = []
    for seed in (0, 1, 0):
        lane = Lane(lane_settings(counted_source([50]), seed=seed), 0, LaneState())
        drawn.append([(sample.seed, *places([sample])) for sample in (lane.draw()[0][0] for _ in range(10))])
    assert drawn[0] == drawn[2]
    assert not set(drawn[0]) & set(drawn[1])


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((3.0, 1.0, 0.0), (750, 250, 0)), ((None, None, None), (1000 / 3,) * 3), ((99.95, 0.05, 0.0), (999.5, 0.5, 0))],
)
def test_sources_are_mixed_exactly(weights: tuple[float | None, ...], shares: tuple[float, ...]) -> None:
    """Of each 1000 draws of all lanes together, and over many of them without a bias."""
    sources = [counted_source([20], name=str(i), weight=weight) for i, weight in enumerate(weights)]
    lanes = all_lanes(lane_settings(*sources, num_lanes=8))
    drawn = np.array([lane.draw()[0][0].cursor[2] for _ in range(1250) for lane in lanes]).reshape(10, 1000)
    counts = np.stack([(drawn == source).sum(axis=1) for source in range(3)], axis=1)
    assert (np.abs(counts - np.array(shares)) < 1).all()
    assert (np.abs(counts.sum(axis=0) - 10 * np.array(shares)) < 2).all()


def test_the_order_of_mixing_is_random() -> None:
    sources = [counted_source([20], name=name) for name in "ab"]
    drawn = np.array([mixed_source(sources, 5, number) for number in range(20_000)])
    same = (drawn[1:] == drawn[:-1]).mean()
    assert 0.48 < same < 0.52
    assert [mixed_source(sources, seed, 0) for seed in range(9)] != [mixed_source(sources, 5, 0)] * 9
    per_lane = drawn.reshape(-1, 8).mean(axis=0)
    assert (np.abs(per_lane - 0.5) < 0.05).all()


def test_the_buffer_is_shared_by_weight() -> None:
    read: Counter[str] = Counter()

    def noted(name: str):  # type: ignore[no-untyped-def]
        def line_of(part: int, line: int) -> Record:
            read[name] += 1
            return good_line(part, line)

        return line_of

    sources = [counted_source([1000], name, weight, noted(name)) for name, weight in (("a", 9.0), ("b", 1.0))]
    lane = Lane(lane_settings(*sources, num_lanes=1, buffer_size=100), 0, LaneState())
    drawn = Counter("ab"[lane.draw()[0][0].cursor[2]] for _ in range(600))
    assert read == {name: drawn[name] + share for name, share in (("a", 90), ("b", 10))}


def test_shuffling_mixes_a_whole_window_and_reading_runs_one_window_ahead() -> None:
    read = []

    def line_of(part: int, line: int) -> Record:
        read.append(line)
        return good_line(part, line)

    settings = lane_settings(counted_source([1192], line_of=line_of), num_lanes=1, buffer_size=100)
    lane = Lane(settings, 0, LaneState())
    lines = [int(lane.draw()[0][0].input_ids[1])]
    assert len(read) == 13  # an eighth of a window and one record ahead, so that a run starts soon
    for _ in range(191):
        lines.append(int(lane.draw()[0][0].input_ids[1]))
    for start, end in ((0, 12), (12, 24), (24, 48), (48, 96), (96, 192)):
        assert sorted(lines[start:end]) == list(range(start + 1, end + 1))
    assert lines != sorted(lines)
    lines.clear()
    read.clear()
    for _ in range(1000):
        lines.append(int(lane.draw()[0][0].input_ids[1]))
        assert len(read) - len(lines) <= 100
    windows = np.array(lines).reshape(10, 100) - 192
    assert (np.sort(windows, axis=1) == np.arange(1, 1001).reshape(10, 100)).all()
    moved = np.abs(windows - np.arange(1, 1001).reshape(10, 100))
    assert 28 < moved.mean() < 39  # a uniform permutation of m items moves each by (m^2 - 1) / (3 m) = 33.3 on average
    neighbours = np.abs(np.diff(windows, axis=1)) == 1
    assert neighbours.mean() < 0.06  # 2 / m = 0.02 by chance; 1 without shuffling
    assert len({tuple(window - window.min()) for window in windows}) == 10


def test_without_shuffling_a_lane_keeps_the_order_of_the_file() -> None:
    lane = Lane(lane_settings(counted_source([40]), num_lanes=1, shuffle=False), 0, LaneState())
    assert [line for _, line in places(lane.draw()[0][0] for _ in range(40))] == list(range(1, 41))


def test_the_lanes_of_few_records_all_have_samples() -> None:
    settings = lane_settings(counted_source([3]), num_lanes=8)
    for lane in all_lanes(settings):
        assert {line for _, line in places(lane.draw()[0][0] for _ in range(12))} <= {1, 2, 3}
    owners = Counter(len(epoch_of(lane, 0)) for lane in all_lanes(settings))
    assert owners == {1: 3, 3: 5}  # three lanes have one record each, five borrow the whole part


def test_a_borrowed_record_is_another_sample_than_its_owners() -> None:
    lanes = all_lanes(lane_settings(counted_source([1]), num_lanes=8))
    assert len({lane.draw()[0][0].seed for lane in lanes}) == 8


def test_what_cannot_be_decoded_is_no_sample_for_a_lane() -> None:
    """Parts 0-2 decode to nothing: their lanes borrow part 3, and only its owner counts what it skips."""

    def make_sample(record: Record, seed: int, size: tuple[int, int]) -> Sample | BadRecord:
        return BadRecord("corrupt image", "x") if record.caption[0] != "3" else identity_sample(record, seed)

    settings = lane_settings(counted_source([5, 5, 5, 5]), num_lanes=4, make_sample=make_sample)
    skipped = 0
    for lane in all_lanes(settings):
        (sample,), tally = lane.draw()
        assert sample.input_ids[0] == 3
        skipped += tally.skipped
        assert tally.counts.get("corrupt image", 0) == (0 if sample.cursor[4] == 0 else 5)
    assert skipped == 15


@pytest.mark.parametrize("stage", ["read", "make"])
def test_a_source_without_a_usable_record_is_an_error(stage: str) -> None:
    bad = BadRecord("invalid base64" if stage == "read" else "too small", "detail")
    source = counted_source([3, 4], "photos", line_of=(lambda p, line: bad) if stage == "read" else good_line)
    settings = lane_settings(source, num_lanes=4, make_sample=lambda record, seed, size: bad)
    with pytest.raises(ValueError, match=r"photos: not one record of its 2 parts can be used") as error:
        Lane(settings, 0, LaneState()).draw()
    assert f"7 {bad.reason}" in str(error.value)
    assert "1:4 detail" in str(error.value) or "0:3 detail" in str(error.value)


def test_an_empty_source_is_an_error_too() -> None:
    with pytest.raises(ValueError, match="0 records skipped"):
        Lane(lane_settings(counted_source([0, 0, 0])), 2, LaneState()).draw()


def test_what_is_wrong_with_a_shared_part_is_counted_once() -> None:
    def read(path: str, start: int = 0, *, every: int = 1, offset: int = 0):  # type: ignore[no-untyped-def]
        for line in range(start + 1, 41):
            if (line - 1) % every == offset:
                yield line, good_line(0, line)
        yield max(start, 40) + 1, BadRecord("truncated gzip")

    source = counted_source([40])
    settings = lane_settings(type(source)("set", ("0",), read), num_lanes=4)
    counted = 0
    for lane in all_lanes(settings):
        tallies = [lane.draw()[1] for _ in range(11)]  # one more than the lane's epoch
        counted += sum(tally.counts.get("truncated gzip", 0) for tally in tallies)
    assert counted == 1


def _some_bad(part: int, line: int) -> Record | BadRecord:
    return BadRecord("bad", str(line)) if (part + line) % 4 == 0 else good_line(part, line)


@pytest.mark.parametrize("lines", [[3], [20], [9, 14, 1, 6, 8, 2, 7]])
def test_a_state_continues_exactly_and_makes_nothing_twice(lines: list[int]) -> None:
    made: list[str] = []

    def make_sample(record: Record, seed: int, size: tuple[int, int]) -> Sample:
        made.append(record.caption)
        return identity_sample(record, seed)

    sources = [counted_source(lines, line_of=_some_bad), counted_source([6, 5], name="other")]
    settings = lane_settings(*sources, num_lanes=4, make_sample=make_sample)
    for index in range(4):
        lane = Lane(settings, index, LaneState())
        whole = [lane.draw() for _ in range(60)]
        for cut in (1, 2, 3, 7, 20, 33, 34, 35, 59):
            state = LaneState()
            for (sample,), _ in whole[:cut]:
                state.advance(sample.cursor)
            continued = Lane(settings, index, state)
            made.clear()
            rest = [continued.draw() for _ in range(60 - cut)]
            assert len(made) == 60 - cut
            for ((a,), tally_a), ((b,), tally_b) in zip(whole[cut:], rest):
                assert (a.seed, a.cursor.tolist(), tally_a.counts) == (b.seed, b.cursor.tolist(), tally_b.counts)


def test_a_part_that_lost_records_is_noticed_on_resuming() -> None:
    lane = Lane(lane_settings(counted_source([20]), num_lanes=1), 0, LaneState())
    state = LaneState()
    for _ in range(4):
        state.advance(lane.draw()[0][0].cursor)
    with pytest.raises(ValueError, match="fewer records than when the checkpoint was saved"):
        Lane(lane_settings(counted_source([2]), num_lanes=1), 0, state).draw()


def test_a_long_row_of_unusable_records_is_reported_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    def line_of(part: int, line: int) -> Record | BadRecord:
        return BadRecord("too small", "9 x 9") if line < 1500 else good_line(part, line)

    settings = lane_settings(counted_source([1600], "tiny", line_of=line_of), num_lanes=1)
    assert Lane(settings, 0, LaneState()).draw()[1].skipped > 1490
    (record,) = caplog.records
    assert record.getMessage().startswith("tiny: no usable record for a long while: 0 samples used, 1000 records")


def test_room_is_made_for_one_open_file_a_lane_and_source(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = []
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(stream.resource, "getrlimit", lambda which: limits["now"])
    monkeypatch.setattr(stream.resource, "setrlimit", lambda which, new: allowed.append(new))
    few, many = lane_settings(counted_source([1]), num_lanes=700), lane_settings(counted_source([1]), num_lanes=2000)
    states = {lane: LaneState() for lane in range(4000)}
    SampleStream(few, range(700), states)
    assert allowed == []
    SampleStream(many, range(2000), states)
    assert allowed == [(2256, 4096)]
    limits["now"] = (1024, 2000)
    with pytest.raises(ValueError, match=r"needs 2256 open files and may have 2000"):
        SampleStream(many, range(2000), states)


def test_lanes_are_opened_at_the_same_time() -> None:
    """So that one waits for a server, or inflates what it has used, while others do; the order is what it was."""
    source = counted_source([8, 8, 8, 8])
    plain = lane_settings(source, num_lanes=4)
    met, read = Barrier(4), source.read

    def meeting(*args: Any, **kwargs: Any) -> Any:
        met.wait(timeout=30)  # breaks, with an error, unless all four lanes come
        return read(*args, **kwargs)

    states = {lane: LaneState() for lane in range(4)}
    meeting_source = replace(source, read=meeting)
    stream = iter(SampleStream(replace(plain, sources=[meeting_source]), range(4), states))
    drawn = [next(stream)[0][0] for _ in range(4)]
    usual = [lane.draw()[0][0] for lane in all_lanes(plain)]
    assert places(drawn) == places(usual)
    assert not met.broken
