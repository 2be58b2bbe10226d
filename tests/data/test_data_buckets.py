"""Aspect-ratio buckets: kohya's sizes, whole batches of one size, nothing lost, exact continuation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data.buckets import Buckets, bucket_sizes, make_groups
from ppsd.data.lane import Lane, LaneState
from ppsd.data.loader import StreamConfig, StreamLoader
from ppsd.types import BadRecord, Record, Sample, World
from tests.data.streams import counted_source, fingerprints, identity_sample, lane_settings, take
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.tiny import tiny_tokenizer


def test_sizes_are_kohyas() -> None:
    """make_bucket_resolutions((512, 512), 256, 1024, 64) of sd-scripts, worked out by hand: 512 * 512 = 262144."""
    wide = [(576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256)]
    assert bucket_sizes(512, 256, 1024, 64) == sorted([(512, 512), *wide, *((h, w) for w, h in wide)])


@pytest.mark.parametrize(
    ("image", "bucket"),
    [
        ((1000, 1000), (512, 512)),
        ((100, 100), (512, 512)),
        ((1600, 900), (640, 384)),  # 1.78: 640 / 384 is 1.67, 704 / 320 is 2.2
        ((576, 448), (576, 448)),
        ((300, 4000), (256, 1024)),
    ],
)
def test_an_image_goes_to_the_nearest_ratio(image: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert Buckets(512, 256, 1024, 64).of(*image) == bucket


@pytest.mark.parametrize(
    ("image", "bucket"),
    [((300, 200), (256, 192)), ((512, 512), (512, 512)), ((1600, 900), (640, 384)), ((40, 40), (64, 64))],
)
def test_without_upscaling_small_images_keep_their_size(image: tuple[int, int], bucket: tuple[int, int]) -> None:
    """1600 x 900: sqrt(512 * 512 * 9 / 16) = 384 high; that side is kept, as 640 x 320 would be further from 16 : 9."""
    assert Buckets(512, 256, 1024, 64, no_upscale=True).of(*image) == bucket


def test_groups_hold_every_record_once_and_are_whole() -> None:
    rng = np.random.default_rng(0)
    buckets = Buckets(512, 256, 1024, 64)
    for no_upscale in (False, True):
        buckets = Buckets(512, 256, 1024, 64, no_upscale)
        for count in (1, 3, 4, 8):
            sizes: list[Any] = [tuple(map(int, rng.integers(200, 900, 2))) for _ in range(96)]
            sizes[5] = sizes[50] = None
            groups = make_groups(sizes, rng.permutation(96).tolist(), count, buckets)
            members = Counter(place for group in groups for place in group.members)
            assert members == Counter(set(range(96)) - {5, 50})
            short = [group for group in groups if len(group.members) < count]
            assert len(short) == (94 % count > 0)
            own = sum(buckets.of(*sizes[place]) == group.size for group in groups for place in group.members)
            assert own > {1: 93, 3: 70, 4: 60, 8: 25}[count] * (0.6 if no_upscale else 1)


def test_latents_are_only_ever_cropped() -> None:
    buckets = Buckets(512, 256, 1024, 64)
    sizes = [buckets.sizes[i % len(buckets.sizes)] for i in range(30)]
    for group in make_groups(sizes, range(30), 4, buckets, crop_only=True):
        for place in group.members:
            assert group.size[0] <= sizes[place][0]
            assert group.size[1] <= sizes[place][1]


def _measure(record: Record) -> tuple[int, int] | BadRecord:
    line = int(record.caption.split(":")[1])
    if line % 11 == 5:
        return BadRecord("not an image", "x")
    return 256 + 37 * (line % 9), 256 + 53 * (line % 7)


def _make(record: Record, seed: int, size: tuple[int, int]) -> Sample | BadRecord:
    if record.caption.endswith("3"):
        return BadRecord("corrupt image", "x")
    made = identity_sample(record, seed)
    made.extras["size"] = np.array(size)
    return made


def _settings() -> Any:
    return lane_settings(
        counted_source([70, 31, 44, 9, 80]),
        num_lanes=2,
        buffer_size=30,
        make_sample=_make,
        buckets=Buckets(512, 256, 1024, 64),
        group_size=4,
        measure=_measure,
    )


def _records(groups: list[list[Sample]], epoch: int) -> Counter[tuple[int, int]]:
    return Counter(tuple(s.input_ids.tolist()) for group in groups for s in group if s.cursor[3] == epoch)


def test_an_epoch_has_every_good_record_and_few_twice() -> None:
    """Where one cannot be decoded or a lane's epoch ends, others of the same group stand in, with other seeds."""
    groups, repeated, counts = [], 0, Counter[str]()
    for lane in range(2):
        reader = Lane(_settings(), lane, LaneState())
        while True:
            group, tally = reader.draw()
            if group[0].cursor[3] > 0:
                break
            groups.append(group)
            repeated += tally.repeated
            counts.update(tally.counts)
    every = {(p, n) for p, lines in enumerate([70, 31, 44, 9, 80]) for n in range(1, lines + 1)}
    good = {(p, n) for p, n in every if n % 11 != 5 and n % 10 != 3}
    seen = _records(groups, 0)
    assert set(seen) == good
    assert sum(seen.values()) == len(good) + repeated == 4 * len(groups)
    assert 0 < repeated < 40
    assert counts == {
        "not an image": len([n for _, n in every if n % 11 == 5]),
        "corrupt image": len([n for _, n in every if n % 10 == 3 and n % 11 != 5]),
    }
    seeds = [sample.seed for group in groups for sample in group]
    assert len(set(seeds)) == len(seeds)
    assert all(len({tuple(sample.extras["size"]) for sample in group}) == 1 for group in groups)


def test_a_lane_with_buckets_continues_exactly() -> None:
    def facts(draws: Iterator[Any]) -> list[Any]:
        return [([(s.seed, *s.extras["size"]) for s in group], tally.counts, tally.repeated) for group, tally in draws]

    lane = Lane(_settings(), 1, LaneState())
    whole = [lane.draw() for _ in range(90)]
    for cut in (1, 5, 6, 7, 8, 30, 60, 89):
        state = LaneState()
        for group, _ in whole[:cut]:
            state.advance(group[0].cursor)
        continued = Lane(_settings(), 1, state)
        assert facts(continued.draw() for _ in range(90 - cut)) == facts(iter(whole[cut:]))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 6 shapes in 3 parts."""
    folder = tmp_path_factory.mktemp("shapes")
    sizes = [(64, 64), (96, 64), (64, 96), (130, 50), (50, 140), (100, 100)]
    lines = [part_line(f"image {i}", jpeg_bytes(*sizes[i % 6], seed=i)) for i in range(60)]
    return write_lists(folder, {"set": [write_lines(folder / f"part-{p}", lines[p::3]) for p in range(3)]})


def _config(shapes: Path) -> StreamConfig:
    return StreamConfig(
        str(shapes),
        resolution=64,
        buffer_size=20,
        num_lanes=4,
        enable_bucket=True,
        min_bucket_reso=32,
        max_bucket_reso=128,
        bucket_reso_steps=16,
    )


def _loader(shapes: Path, **options: Any) -> StreamLoader:
    return StreamLoader(_config(shapes), tiny_tokenizer(), **{"batch_size": 3, "seed": 5, **options})


def test_batches_have_one_size_whoever_reads_them(shapes: Path) -> None:
    batches = take(_loader(shapes), 24)
    assert len({tuple(batch["pixels"].shape) for batch in batches}) >= 4
    assert all(batch["pixels"].shape[0] == 3 for batch in batches)
    alone = fingerprints(batches)
    assert fingerprints(take(_loader(shapes, num_workers=2), 24)) == alone
    ranks = [fingerprints(take(_loader(shapes, world=World(rank, 2)), 12)) for rank in range(2)]
    assert [batch for pair in zip(*ranks) for batch in pair] == alone


def test_a_loader_with_buckets_continues_exactly(shapes: Path) -> None:
    whole = fingerprints(take(_loader(shapes), 24))
    first = _loader(shapes)
    take(first, 11)
    assert fingerprints(take(_loader(shapes, position=first.position(), num_workers=2), 13)) == whole[11:]
    with pytest.raises(ValueError, match="--per_device_train_batch_size was 3 and is 2"):
        _loader(shapes, position=first.position(), batch_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket_reso_steps": 12}, "--bucket_reso_steps 12 is not a multiple of 8"),
        ({"min_bucket_reso": 100}, "--min_bucket_reso 100 is not a multiple of --bucket_reso_steps 64"),
        ({"resolution": 520}, "--resolution 520 is not a multiple of --bucket_reso_steps 64"),
        ({"resolution": 192}, "--resolution 192 is not between --min_bucket_reso 256"),
    ],
)
def test_flags_that_cannot_work(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamConfig("x", enable_bucket=True, **options)  # type: ignore[arg-type]


def test_groups_depend_on_the_filter(shapes: Path) -> None:
    first = _loader(shapes)
    take(first, 2)
    config = replace(_config(shapes), filter="width > 60")
    with pytest.raises(ValueError, match="--filter was None and is width > 60"):
        StreamLoader(config, tiny_tokenizer(), batch_size=3, seed=5, position=first.position())
