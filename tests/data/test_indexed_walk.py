"""Indexed sources: exact epochs, repeats, stand-ins for bad records, turns and mixtures of sources."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ppsd.data.epoch_plan import spread
from ppsd.data.lane import Lane, LaneState
from ppsd.data.mixing import drawn_before, mixed_source
from ppsd.data.source import records_per_epoch
from ppsd.data.tally import Tally
from ppsd.types import BadRecord, Record, Sample
from tests.data.numbered import drawn, numbered_source, numbers_of
from tests.data.streams import all_lanes, counted_source, identity_sample, lane_settings


@pytest.mark.parametrize("count", [1, 2, 5, 37])
@pytest.mark.parametrize("lanes", [1, 4, 8, 64])
def test_every_epoch_has_every_record_once(count: int, lanes: int) -> None:
    """The groups of all lanes in turn: also where there are more lanes than records."""
    settings = lane_settings(numbered_source(count), num_lanes=lanes)
    streams = all_lanes(settings)
    run = [streams[number % lanes].draw()[0] for number in range(3 * count)]
    for epoch in range(3):
        assert numbers_of(run[epoch * count : (epoch + 1) * count]) == Counter(range(count))
    assert [group[0].seed for group in drawn(settings, 0, 3 * count)] == [group[0].seed for group in run]
    assert len({group[0].seed for group in run}) == 3 * count


def test_the_order_does_not_depend_on_the_number_of_lanes() -> None:
    """Nor on who has drawn before: it is the same run on 1, 8 and 64 lanes."""
    source = numbered_source(23, repeats=2)
    runs = [
        [(s.seed, int(s.input_ids[1])) for (s,) in drawn(lane_settings(source, num_lanes=lanes), 0, 92)]
        for lanes in (1, 8, 64)
    ]
    assert runs[0] == runs[1] == runs[2]
    orders = [[number for _, number in runs[0][start : start + 46]] for start in (0, 46)]
    assert orders[0] != orders[1]
    other = [(s.seed, int(s.input_ids[1])) for (s,) in drawn(lane_settings(source, seed=1), 0, 46)]
    assert [number for _, number in other] != orders[0]


def test_repeats_are_exact_and_far_apart() -> None:
    repeats = [1, 10, 3, 1, 10]
    run = [int(s.input_ids[1]) for (s,) in drawn(lane_settings(numbered_source(5, repeats)), 0, 50)]
    for start in (0, 25):
        assert Counter(run[start : start + 25]) == dict(enumerate(repeats))
    places = [place for place, number in enumerate(run[:25]) if number == 1]
    assert max(np.diff(places)) <= 7  # 2.5 on average


def test_equal_repeats_are_whole_passes() -> None:
    items, copies = spread(np.full(7, 4), 0)
    assert [sorted(items[start : start + 7]) for start in range(0, 28, 7)] == [list(range(7))] * 4
    assert copies.tolist() == [0] * 7 + [1] * 7 + [2] * 7 + [3] * 7
    assert spread(np.full(7, 4), 0, shuffle=False)[0].tolist() == [*range(7)] * 4


def test_places_of_a_record_are_uniform() -> None:
    places = np.array([np.flatnonzero(spread(np.ones(20, int), 3, epoch)[0] == 4)[0] for epoch in range(4000)])
    counts = np.bincount(places, minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-squared, 19 degrees of freedom: 0.1 % are above


def _some_bad(index: int) -> Record | BadRecord:
    return BadRecord("unreadable image", f"{index}.jpg") if index % 5 == 2 else Record(b"", f"0:{index}")


def _make(record: Record, seed: int, size: tuple[int, int]) -> Sample | BadRecord:
    if record.caption in ("0:4", "0:9"):
        return BadRecord("corrupt image", "x")
    return identity_sample(record, seed, size)


def test_bad_records_are_counted_once_an_epoch_and_others_stand_in() -> None:
    listed = [("no.jpg", BadRecord("missing image", "no.jpg")), ("no.txt", BadRecord("unreadable caption"))]
    source = numbered_source(20, 3, record_of=_some_bad, bad=listed)
    settings = lane_settings(source, num_lanes=4, make_sample=_make)
    lanes = all_lanes(settings)
    for _ in range(3):
        tally, groups = Tally(), []
        for number in range(60):
            samples, found = lanes[number % 4].draw()
            groups.append(samples)
            tally.merge(found)
        expected = {"unreadable image": 4, "corrupt image": 2, "missing image": 1, "unreadable caption": 1}
        assert tally.counts == expected
        assert tally.examples["unreadable image"][0].startswith("record ")
        assert (tally.used, tally.repeated) == (60, 18)
        seen = numbers_of(groups)
        assert set(seen) == {n for n in range(20) if n % 5 != 2 and n not in (4, 9)}
        assert min(seen.values()) == 3
        assert sum(seen.values()) == 60
        assert len({sample.seed for group in groups for sample in group}) == 60


@pytest.mark.parametrize("stage", ["read", "make"])
def test_nothing_usable_is_an_error_that_says_why(stage: str) -> None:
    bad = BadRecord("corrupt image", "cut off")
    records: dict[str, Any] = {"record_of": lambda index: bad} if stage == "read" else {}
    settings = lane_settings(numbered_source(7, 2, **records), make_sample=lambda record, seed, size: bad)
    with pytest.raises(ValueError, match="set: not one of its 7 records can be used") as error:
        Lane(settings, 0, LaneState()).draw()
    assert "7 corrupt image, e.g.\n    record 0 cut off" in str(error.value)


def test_an_empty_source_is_an_error_that_names_what_the_index_lacks() -> None:
    source = numbered_source(0, bad=[("a.jpg", BadRecord("missing image", "a.jpg"))])
    with pytest.raises(ValueError, match="set: not one of its 1 records can be used") as error:
        Lane(lane_settings(source), 0, LaneState()).draw()
    assert "  1 missing image, e.g.\n    a.jpg" in str(error.value)


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_sources_take_turns_exactly(lanes: int) -> None:
    """Instance and class images of DreamBooth: pairs, each with its weight, each source in its own whole epochs."""
    instance, others = numbered_source(5, loss_weight=2.0), numbered_source(8, loss_weight=0.5, weight=100.0)
    settings = lane_settings(instance, others, num_lanes=lanes, alternate=True)
    run = [group[0] for group in drawn(settings, 0, 80)]
    assert [sample.record[0] for sample in run] == [0, 1] * 40
    assert [sample.weight for sample in run] == [2.0, 0.5] * 40
    assert Counter(sample.record[1] for sample in run[::2]) == Counter(dict.fromkeys(range(5), 8))
    assert Counter(sample.record[1] for sample in run[1::2]) == Counter(dict.fromkeys(range(8), 5))
    for start in range(0, 80, 10):
        assert Counter(sample.record[1] for sample in run[start : start + 10 : 2]) == Counter(range(5))


def test_streams_take_turns_and_have_weights_too() -> None:
    source = counted_source([9])
    weighted = type(source)("b", source.parts, source.read, loss_weight=3.0)
    settings = lane_settings(source, weighted, num_lanes=2, alternate=True)
    lanes = all_lanes(settings)
    run = [lanes[number % 2].draw()[0][0] for number in range(12)]
    assert [(int(s.cursor[2]), s.weight) for s in run] == [(0, 1.0), (1, 3.0)] * 6


@pytest.mark.parametrize("weights", [(3.0, 1.0, 0.0), (None, None), (99.95, 0.05), (1e-9, 1.0), (0.0, 2.0, 5.0)])
def test_draws_from_each_source_are_counted_exactly(weights: tuple[float | None, ...]) -> None:
    sources = [numbered_source(5, weight=weight) for weight in weights]
    counts = Counter[int]()
    for number in range(7300):
        source = mixed_source(sources, 5, number)
        if number % 7 == 0 or number % 1000 in (0, 999):
            assert drawn_before(sources, 5, number) == counts[source]
        counts[source] += 1


def test_mixed_sources_keep_their_epochs_whole() -> None:
    sources = [numbered_source(6, weight=3.0), numbered_source(4, 2, weight=1.0)]
    run = drawn(lane_settings(*sources, num_lanes=8), 0, 400)
    for index, (count, repeats) in enumerate([(6, 1), (4, 2)]):
        own = [group[0].record[1] for group in run if group[0].record[0] == index]
        assert len(own) == [300, 100][index] or abs(len(own) - [300, 100][index]) < 40
        size = count * repeats
        for start in range(0, len(own) - size, size):
            assert Counter(own[start : start + size]) == Counter(dict.fromkeys(range(count), repeats))


def test_the_length_of_an_epoch() -> None:
    assert records_per_epoch([numbered_source(5, [1, 2, 3, 4, 5])]) == 15
    assert records_per_epoch([numbered_source(5), numbered_source(7, 2), numbered_source(9, weight=0.0)]) == 19
    assert records_per_epoch([numbered_source(5), counted_source([3])]) is None
