"""The loader on a folder of images: epochs, devices, workers, resuming, small sets; colours."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data import loader as loader_module
from ppsd.data.config import StreamConfig
from ppsd.data.folders import folder_source
from ppsd.data.loader import StreamLoader
from ppsd.data.source import records_per_epoch
from ppsd.types import World
from tests.data.streams import fingerprints, take
from tests.images import jpeg_bytes, write_parts
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SHAPES = [(48, 48), (72, 40), (40, 72), (90, 33)]
SIDES: dict[str, Any] = {"min_bucket_reso": 16, "max_bucket_reso": 64, "bucket_reso_steps": 8, "enable_bucket": True}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 images, 4 of them twice an epoch, two files that are no images: 15 records of which 2 cannot be used."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(11):
        place = folder / ("2_a cat" if number % 3 == 0 else ".")
        place.mkdir(exist_ok=True)
        (place / f"{number}.jpg").write_bytes(jpeg_bytes(*SHAPES[number % 4], seed=number))
        (place / f"{number}.txt").write_text(f"caption {number}")
    for name in ("bad", "worse"):
        (folder / f"{name}.jpg").write_bytes(b"nothing")
        (folder / f"{name}.txt").write_text("x")
    return folder


def loader(folder: Path, batch_size: int = 4, **options: Any) -> StreamLoader:
    names = [name for name in options if name in StreamConfig.__dataclass_fields__]
    config = StreamConfig(train_data_dir=str(folder), **{"resolution": 32, **{n: options.pop(n) for n in names}})
    return StreamLoader(config, TOKENIZER, batch_size=batch_size, **{"seed": 5, **options})


def endless(folder: Path, batch_size: int = 4, **options: Any) -> StreamLoader:
    """One whose epoch does not end within a test."""
    return loader(folder, batch_size, num_records=10**6, **options)


def seen(batches: list[Any], stream: StreamLoader) -> Counter[str]:
    """How often each image was used, but for what stands in for others."""
    rows = np.concatenate([batch["record"] for batch in batches])
    return Counter(Path(name).name for name in stream.names(rows[rows[:, 2] >= 0]))


TWICE = {f"{n}.jpg": 2 if n % 3 == 0 else 1 for n in range(11)}


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize(("devices", "workers", "lanes"), [(1, 2, 8), (2, 0, 8), (4, 1, 4), (1, 3, 64)])
def test_epochs_are_the_same_for_any_devices_workers_and_lanes(
    photos: Path, devices: int, workers: int, lanes: int, buckets: bool
) -> None:
    """Of a global batch of 4; in buckets, of batches of 2 each."""
    flags = SIDES if buckets else {}
    batch, count = (2, 12 * devices) if buckets else (4, 12)
    whole = take(endless(photos, batch, num_lanes=lanes, **flags), count)
    size = batch if buckets else 4 // devices
    ranks = []
    for rank in range(devices):
        stream = endless(photos, size, num_workers=workers, num_lanes=lanes, world=World(rank, devices), **flags)
        ranks.append(take(stream, count // devices if buckets else count))
    if buckets:
        together = [batch for group in zip(*map(fingerprints, ranks)) for batch in group]
    else:
        prints = [fingerprints(batches) for batches in ranks]
        together = [[prints[i % devices][n][i // devices] for i in range(4)] for n in range(count)]
    assert together == fingerprints(whole)


@pytest.mark.parametrize("lanes", [1, 8, 64])
@pytest.mark.parametrize("buckets", [False, True])
def test_every_image_comes_as_often_as_its_repeats_say(photos: Path, lanes: int, buckets: bool) -> None:
    stream = loader(photos, 1, num_lanes=lanes, **(SIDES if buckets else {}))
    assert len(stream) == (15 if buckets else 17)  # buckets need sizes, and what has none is not in them
    for _ in range(3):
        batches = list(stream)
        own = seen(batches, stream)
        if buckets:
            assert own == TWICE
        else:  # two others stand in for the files that are no images
            assert sum(own.values()) == 17
            assert not Counter(TWICE) - own
    assert stream.tally.counts == {"not an image": 6}
    assert stream.tally.repeated == (0 if buckets else 6)


@pytest.mark.parametrize("buckets", [False, True])
def test_a_run_that_is_cut_anywhere_continues_exactly(photos: Path, buckets: bool) -> None:
    flags = SIDES if buckets else {}
    whole, positions = [], []
    stream = endless(photos, **flags)
    for batch in islice(stream, 14):
        whole += fingerprints([batch])
        positions.append(json.loads(json.dumps(stream.position())))
    for cut in range(1, 13):
        continued = endless(photos, num_workers=cut % 3, position=positions[cut - 1], **flags)
        assert fingerprints(take(continued, 2)) == whole[cut : cut + 2]


def test_other_devices_continue_exactly(photos: Path) -> None:
    whole = fingerprints(take(endless(photos), 9))
    positions = []
    for rank in range(2):
        stream = endless(photos, 2, world=World(rank, 2))
        take(stream, 4)
        positions.append(stream.position())
    assert fingerprints(take(endless(photos, position=positions), 5)) == whole[4:]


def test_another_folder_is_noticed(photos: Path, tmp_path: Path) -> None:
    stream = loader(photos)
    take(stream, 1)
    other = write_folder(tmp_path, 11)
    with pytest.raises(ValueError, match="the data of --file_list, --train_data_dir or --dataset_name"):
        loader(other, position=stream.position())
    with pytest.raises(ValueError, match="turns of the sources was None and is True"):
        loader(photos, position=stream.position(), alternate=True)
    turns = loader(photos, alternate=True)
    with pytest.raises(ValueError, match="turns of the sources was True and is None"):
        loader(photos, position=turns.position())


def write_folder(folder: Path, count: int, side: int = 40) -> Path:
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(jpeg_bytes(side, side + 8, seed=number))
        (folder / f"{number}.txt").write_text(f"caption {number}")
    return folder


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("flags", [{}, SIDES])
@pytest.mark.parametrize(("devices", "workers"), [(1, 0), (1, 3), (4, 2)])
def test_small_sets(tmp_path: Path, count: int, flags: dict[str, Any], devices: int, workers: int) -> None:
    """Fewer images than lanes, devices, workers or a batch have."""
    folder = write_folder(tmp_path, count)
    rows = []
    for rank in range(devices):
        stream = loader(folder, 8, num_workers=workers, world=World(rank, devices), **flags)
        assert len(stream) == 1
        for _ in range(2):
            rows += [batch["record"] for batch in stream]
        stream.close()
    used = Counter(np.concatenate(rows)[:, 1].tolist())
    assert set(used) == set(range(count))
    assert sum(used.values()) == 16 * devices
    assert max(used.values()) - min(used.values()) <= (1 if not flags else 2 * devices)


def test_a_bad_image_is_named_in_the_report_of_each_epoch(
    photos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "REPORT_SECONDS", 0)
    stream = loader(photos, 1)
    with caplog.at_level(logging.INFO, "ppsd.data"):
        for _ in range(2):
            list(stream)
    reports = [record.getMessage() for record in caplog.records]
    assert [text.splitlines()[0] for text in reports] == [
        f"data of epoch {n}: 17 samples used (2 of them again, to fill batches of one size), 2 records skipped"
        for n in (1, 2)
    ]
    assert all(f"{photos}/bad.jpg 7 bytes" in text and f"{photos}/worse.jpg 7 bytes" in text for text in reports)


def test_the_bucket_table_is_logged_once(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ppsd.data"):
        for rank in range(2):
            loader(photos, 2, world=World(rank, 2), **SIDES)
    (text,) = [record.getMessage() for record in caplog.records]
    assert text.startswith(
        f"buckets of {photos.name}, images and batches of 2 an epoch; to fill the last of each bucket"
    )
    assert sum(int(line.split()[3]) for line in text.splitlines()[2:]) == 15


def test_what_comes_next_is_named(photos: Path) -> None:
    stream = loader(photos, num_workers=2, num_lanes=8)
    take(stream, 3)
    assert stream.waited_for().startswith("data worker 0, lane 4, at or after group 5 of epoch 0 of photos")


def test_instance_and_class_images_alternate_with_their_weights(tmp_path: Path) -> None:
    """Each batch of DreamBooth has pairs; the weight of a class image is that of the prior."""
    config = StreamConfig(resolution=32, alternate=True, caption_dropout_rate=0.0)
    folders = []
    for name, count in (("dog", 3), ("dogs", 5)):
        (tmp_path / name).mkdir()
        folders.append(write_folder(tmp_path / name, count))
    sources = [
        folder_source(folders[0], config, caption="sks dog", loss_weight=2.0, flag="instance_data_dir"),
        folder_source(folders[1], config, caption="dog", loss_weight=0.6, flag="class_data_dir"),
    ]
    assert records_per_epoch(sources, config, 4) == 10
    long = replace(config, num_records=10**6)
    stream = StreamLoader(long, TOKENIZER, batch_size=4, sources=sources, num_workers=2)
    batches = take(stream, 15)
    assert all(batch["record"][:, 0].tolist() == [0, 1, 0, 1] for batch in batches)
    weights = np.float32([2.0, 0.6, 2.0, 0.6]).tolist()
    assert all(batch["weight"].numpy().tolist() == weights for batch in batches)
    rows = np.concatenate([batch["record"] for batch in batches])
    for source, count in ((0, 3), (1, 5)):
        assert Counter(rows[rows[:, 0] == source, 1].tolist()) == Counter(dict.fromkeys(range(count), 30 // count))


def test_small_images_of_folders_are_enlarged(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 3)
    (batch,) = take(loader(folder, 3, resolution=64), 1)
    assert batch["pixels"].shape == [3, 3, 64, 64]
    with pytest.raises(ValueError, match="3 too small"):
        take(loader(folder, 3, resolution=64, upscale_small=False), 1)
    parts = StreamConfig(str(write_parts(tmp_path, [4], 40, 48)), resolution=64)
    with pytest.raises(ValueError, match="4 too small"):
        take(StreamLoader(parts, TOKENIZER, batch_size=2), 1)
    (batch,) = take(StreamLoader(replace(parts, upscale_small=True), TOKENIZER, batch_size=2), 1)
    assert batch["pixels"].shape == [2, 3, 64, 64]


def test_colours_change_and_nothing_else(photos: Path) -> None:
    plain, changed = (take(endless(photos, color_jitter=strength), 3) for strength in (0.0, 0.4))
    assert [batch["seed"].tolist() for batch in plain] == [batch["seed"].tolist() for batch in changed]
    difference = [np.abs(a["pixels"].numpy().astype(int) - b["pixels"].numpy()).mean() for a, b in zip(plain, changed)]
    assert 5 < min(difference) < max(difference) < 80
    assert fingerprints(take(loader(photos, color_jitter=0.4, num_workers=2), 3)) == fingerprints(changed)
