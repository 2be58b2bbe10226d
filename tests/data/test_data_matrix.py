"""Any number of workers and devices, cut anywhere and continued on any other number: the same global batches."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ppsd.data.loader import StreamConfig, StreamLoader
from ppsd.types import World
from tests.data.streams import take
from tests.images import write_lists, write_parts
from tests.tiny import tiny_tokenizer

GLOBAL_BATCH = 8
Ids = list[list[tuple[int, ...]]]  # for each global batch, of each sample: seed and token ids


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of 53 and 29 records in parts of many lengths, one of which is not there."""
    folder = tmp_path_factory.mktemp("matrix")
    write_parts(folder, [9, 1, 14, 0, 6, 11, 2, 10], 16, 16, "a")
    write_parts(folder, [17, 12], 16, 16, "b")
    parts = {name: sorted((folder / name).glob("part-*")) for name in "ab"}
    parts["b"].append(folder / "b" / "part-gone")
    return write_lists(folder, parts, weights=[3.0, 1.0])


def global_batches(
    records: Path, count: int, devices: int, workers: int, positions: list[Any] | None = None, **options: Any
) -> tuple[Ids, list[Any]]:
    """`count` batches of all devices together, and the positions of all devices after them."""
    config = StreamConfig(str(records), resolution=16, buffer_size=8, num_lanes=8, caption_dropout_rate=0.0, **options)
    ranks, after = [], []
    for rank in range(devices):
        loader = StreamLoader(
            config,
            tiny_tokenizer(),
            batch_size=GLOBAL_BATCH // devices,
            world=World(rank, devices),
            num_workers=workers,
            seed=3,
            position=positions,
        )
        batches = take(loader, count)
        ranks.append([[(int(s), *i.tolist()) for s, i in zip(b["seed"], b["input_ids"].numpy())] for b in batches])
        after.append(loader.position())
        loader.close()
    merged = [[ranks[i % devices][b][i // devices] for i in range(GLOBAL_BATCH)] for b in range(count)]
    return merged, after


@pytest.fixture(scope="module")
def uncut(records: Path) -> Ids:
    return global_batches(records, 200, devices=1, workers=0)[0]


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_workers_and_devices_make_no_difference(records: Path, uncut: Ids, workers: int, devices: int) -> None:
    assert global_batches(records, 30, devices, workers)[0] == uncut[:30]


def test_cut_fifty_times_on_changing_machines(records: Path, uncut: Ids) -> None:
    rng = random.Random(1)
    seen: Ids = []
    positions = None
    for _ in range(50):
        devices, workers = rng.choice([(1, 0), (1, 0), (2, 0), (4, 0), (1, 1), (1, 2), (2, 2), (4, 1)])
        batches, positions = global_batches(records, rng.randint(1, 4), devices, workers, positions)
        seen += batches
    assert len(seen) > 100
    assert seen == uncut[: len(seen)]


def test_the_uncut_run_has_every_record_of_both_sources_by_weight(records: Path, uncut: Ids) -> None:
    """1000 samples: exactly 750 of the 53 records of source a, which so come more often, and 250 of the 29 of b."""
    seen = Counter(ids[1:] for batch in uncut[:125] for ids in batch)
    assert len({ids[0] for batch in uncut for ids in batch}) == 1600
    counts = sorted(seen.values())
    assert len(counts) == 29 + 53
    assert sum(counts[:29]) == 250
