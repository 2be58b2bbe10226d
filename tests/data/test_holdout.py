"""Held-out records: the same whatever the order, never on both sides, some on each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.folders import dataset_source, folder_source
from ppsd.data.holdout import HELD_OUT, NOT_HELD_OUT, split_source
from ppsd.data.indexed import IndexedSource, choose
from ppsd.data.source import open_sources
from ppsd.types import BadRecord, LatentRecord, Record
from tests.data.numbered import numbered_source
from tests.data.streams import counted_source
from tests.images import jpeg_bytes, write_parts


def keys(source: IndexedSource) -> list[bytes]:
    return [source.records.key(index) for index in range(len(source.records))]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("count", [2, 3, 5, 1000])
def test_every_record_is_on_one_side(count: int, share: float) -> None:
    for seed in range(3):
        train, held_out = split_source(numbered_source(count, 3), share, seed)
        assert sorted(keys(train) + keys(held_out)) == sorted(keys(numbered_source(count)))
        assert len(train.records) >= 1
        assert len(held_out.records) >= 1
        assert abs(len(held_out.records) - share * count) < 3.5 * (share * (1 - share) * count) ** 0.5 + 1
        assert train.counts.tolist() == [3] * len(train.records)


def test_neither_order_nor_further_records_move_one() -> None:
    source = numbered_source(500)
    held_out = set(keys(split_source(source, 0.1, 0)[1]))
    shuffled = choose(source, np.random.default_rng(0).permutation(500))
    assert set(keys(split_source(shuffled, 0.1, 0)[1])) == held_out
    more = set(keys(split_source(numbered_source(900), 0.1, 0)[1]))
    assert more & set(keys(source)) == held_out
    assert set(keys(split_source(source, 0.1, 1)[1])) != held_out


def test_one_record_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="--validation_split: set has fewer than two different records"):
        split_source(numbered_source(1), 0.5, 0)


def test_what_the_index_lacks_is_counted_in_training() -> None:
    bad = [("x.jpg", BadRecord("missing image"))]
    train, held_out = split_source(numbered_source(10, bad=bad), 0.2, 0)
    assert (list(train.bad), list(held_out.bad)) == (bad, [])


def test_a_folder_that_moves_and_grows(tmp_path: Path) -> None:
    def held_out(folder: Path, names: range) -> set[bytes]:
        for number in names:
            (folder / "sub").mkdir(parents=True, exist_ok=True)
            (folder / "sub" / f"{number}.jpg").write_bytes(b"?")
        source = folder_source(folder, StreamConfig(), caption="x")
        return set(keys(split_source(source, 0.3, 0)[1]))

    few = held_out(tmp_path / "a", range(40))
    assert few == {key for key in held_out(tmp_path / "b" / "c", range(80)) if int(key[4:-4]) < 40}
    assert all(key.startswith(b"sub/") for key in few)


def test_rows_of_a_data_set_are_told_by_their_image(tmp_path: Path) -> None:
    import datasets

    images = [{"bytes": jpeg_bytes(seed=n % 20), "path": None} for n in range(40)]  # each twice
    dataset = datasets.Dataset.from_dict({"image": images, "text": ["x"] * 40})
    sides = []
    for name in ("plain", "shuffled"):
        (dataset if name == "plain" else dataset.shuffle(seed=0)).save_to_disk(str(tmp_path / name))
        train, held_out = split_source(dataset_source(str(tmp_path / name), StreamConfig()), 0.3, 0)
        assert not set(keys(train)) & set(keys(held_out))
        assert set(Counter(keys(train) + keys(held_out)).values()) == {2}
        sides.append(set(keys(held_out)))
    assert sides[0] == sides[1]


def test_a_stream_goes_to_exactly_one_side(tmp_path: Path) -> None:
    (source,) = open_sources(StreamConfig(str(write_parts(tmp_path, [60, 40], 16, 16))))
    assert not isinstance(source, IndexedSource)
    sides: list[dict[tuple[str, int], Any]] = [
        {(part, number): record for part in side.parts for number, record in side.read(part)}
        for side in split_source(source, 0.25, 0)
    ]
    for place, record in sides[0].items():
        held_out = sides[1][place]
        assert isinstance(record, Record) != isinstance(held_out, Record)
        assert (record if isinstance(record, BadRecord) else held_out).reason in (HELD_OUT, NOT_HELD_OUT)
    count = sum(isinstance(record, Record) for record in sides[1].values())
    assert 12 <= count <= 40
    assert len(sides[0]) == len(sides[1]) == 100


def test_cached_latents_and_bad_records_of_a_stream() -> None:
    def line_of(part: int, line: int) -> Any:
        return BadRecord("bad", "x") if line == 3 else LatentRecord(np.full((8, 1, 1), line), "x")

    train, held_out = split_source(counted_source([200], line_of=line_of), 0.5, 0)
    kinds = [Counter(type(record) for _, record in side.read("0")) for side in (train, held_out)]
    assert kinds[0][LatentRecord] + kinds[1][LatentRecord] == 199
    assert 70 < kinds[1][LatentRecord] < 130
    assert [record for side in (train, held_out) for number, record in side.read("0") if number == 3] == [
        BadRecord("bad", "x")
    ] * 2
