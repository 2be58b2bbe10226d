"""Conditions through the whole stream: from files of every kind to batches, and nothing else of a run changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppsd.data.collate import collate
from ppsd.data.config import StreamConfig
from ppsd.data.loader import StreamLoader
from ppsd.data.order import Unit
from ppsd.data.source import open_sources, open_streams, sources_digest
from ppsd.data.window import WindowLimits, WindowReader
from ppsd.formats.filelist import read_file_list
from ppsd.formats.image_folder_writer import write_folder
from ppsd.formats.laion import write_part
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.parts import read_any
from ppsd.formats.webdataset import write_tar
from ppsd.types import Record
from tests.data.scenes import disagreement, png, scene, scene_record, write_scenes
from tests.data.streams import take
from tests.data.test_inspection_clean import clean
from tests.images import jpeg_bytes, write_lists
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ALL = ("conditioning", "mask", "depth")
COLUMNS = ("conditioning_image", "mask", "depth")
SETTINGS: dict[str, Any] = {"resolution": 64, "buffer_size": 6, "num_lanes": 4, "random_flip": True}
WRITERS: dict[str, Callable[[Path, Any], Any]] = {
    "part": write_part,
    "part.gz": lambda path, records: write_part(path, records, gzip=True),
    "part.tar": write_tar,
    "part.parquet": write_parquet,
    "folder": write_folder,
}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By format, the list of two parts of 7 scenes each, with three conditions at twice the resolution."""
    folder = tmp_path_factory.mktemp("conditions")
    found = {}
    for name, write in WRITERS.items():
        parts = [folder / f"{index}-{name}" for index in range(2)]
        for index, part in enumerate(parts):
            write(part, [scene_record(7 * index + n, 2.0, COLUMNS) for n in range(7)])
        (folder / f"lists-{name}").mkdir()
        found[name] = write_lists(folder / f"lists-{name}", {"set": parts})
    return found


def loader(config: StreamConfig, **options: Any) -> StreamLoader:
    return StreamLoader(config, TOKENIZER, **{"batch_size": 3, "seed": 5, **options})


def same(batches: list[Any], others: list[Any]) -> bool:
    """Whether they are the same samples, to the bit, but for the conditions."""
    names = ("pixels", "input_ids", "seed", "record", "cursor")
    pairs = [(np.asarray(one[name]), np.asarray(other[name])) for one, other in zip(batches, others) for name in names]
    return len(batches) == len(others) and all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_stream_with_and_without(lists: dict[str, Path], name: str) -> None:
    plain = StreamConfig(str(lists[name]), **SETTINGS)
    expected = take(loader(plain), 12)
    found = take(loader(replace(plain, conditions=ALL)), 12)
    assert same(found, expected)
    assert not set(ALL) & set(expected[0])
    for batch in found:
        shapes = {name: (tuple(batch[name].shape), batch[name].dtype) for name in ALL}
        assert shapes == {
            "conditioning": ((3, 3, 64, 64), paddle.uint8),
            "mask": ((3, 1, 64, 64), paddle.uint8),
            "depth": ((3, 1, 64, 64), paddle.float32),
        }
        for name in ALL:
            for pixels, condition in zip(batch["pixels"].numpy(), batch[name].numpy()):
                assert disagreement(pixels, condition) < 0.004


@pytest.mark.parametrize("kind", ["folder", "data set"])
@pytest.mark.parametrize("buckets", [False, True])
def test_indexed_sources(tmp_path: Path, kind: str, buckets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = dict.fromkeys(COLUMNS, "c/{n}.png")
    folder = write_scenes(tmp_path / "set", 9, 0.5, **columns)
    plain = StreamConfig(train_data_dir=str(folder), **SETTINGS)
    if kind == "data set":
        plain = replace(plain, train_data_dir=None, dataset_name=str(data_set(tmp_path / "hf", monkeypatch)))
    if buckets:
        plain = replace(plain, enable_bucket=True, min_bucket_reso=32, max_bucket_reso=128, bucket_reso_steps=8)
    wanted = replace(plain, conditions=ALL)
    assert sources_digest(open_sources(plain)) == sources_digest(open_sources(wanted)), "a run goes on with them"
    expected, found = take(loader(plain), 8), take(loader(wanted), 8)
    assert same(found, expected)
    assert found[0]["pixels"].shape[2:] == ([56, 72] if buckets else [64, 64])
    for batch in found:
        for name in ALL:
            for pixels, condition in zip(batch["pixels"].numpy(), batch[name].numpy()):
                assert disagreement(pixels, condition) < 0.004


def data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scenes with a mask as bytes, a conditioning image as an image and the path of a depth map as a text."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder.parent / "hf_cache")
    records = [scene_record(n, 1.5, COLUMNS) for n in range(9)]
    rows = {
        "image": [{"bytes": record.image, "path": None} for record in records],
        "text": [record.caption for record in records],
        "conditioning_image": [{"bytes": record.meta["conditioning_image"], "path": None} for record in records],
        "mask": [record.meta["mask"] for record in records],
        "depth": [f"depth/{n}.png" for n in range(9)],
    }
    dataset = datasets.Dataset.from_dict(rows)
    for column in ("image", "conditioning_image"):
        dataset = dataset.cast_column(column, datasets.Image())
    dataset.save_to_disk(str(folder))
    (folder / "depth").mkdir()
    for n, record in enumerate(records):
        (folder / f"depth/{n}.png").write_bytes(record.meta["depth"])
    return folder


def test_paths_of_a_data_set_stay_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    (tmp_path / "secret.png").write_bytes(png(scene()))
    paths = ["../secret.png", str(tmp_path / "secret.png"), "gone.png", "", None]
    image = {"bytes": png(scene()), "path": None}
    pictures = [*({"bytes": None, "path": path} for path in paths[:3]), None, image]
    rows = {"image": [image] * 5, "text": ["x"] * 5, "depth": paths, "conditioning_image": pictures}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "hf"))
    config = StreamConfig(dataset_name=str(tmp_path / "hf"), conditions=("conditioning", "depth"), resolution=64)
    records = open_sources(config)[0].records  # type: ignore[union-attr]
    for name in ("depth", "conditioning_image"):
        values = [records[n].meta.get(name) for n in range(4)]
        reasons = [getattr(value, "reason", None) for value in values]
        assert reasons == ["image outside of the data set"] * 2 + ["unreadable image", None], name
        assert not any(isinstance(value, bytes) for value in values)
    unwanted = open_sources(replace(config, conditions=()))[0].records  # type: ignore[union-attr]
    assert not any("conditioning_image" in unwanted[n].meta for n in range(3)), "nor is it read where nobody needs it"


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_carry_them(lists: dict[str, Path], num_workers: int) -> None:
    config = StreamConfig(str(lists["part.gz"]), conditions=ALL, **SETTINGS)
    expected = [{name: np.asarray(batch[name]) for name in ALL} for batch in take(loader(config), 9)]
    many = loader(config, num_workers=num_workers)
    found = [{name: np.array(batch[name]) for name in ALL} for batch in take(many, 9)]
    assert all(np.array_equal(one[name], other[name]) for one, other in zip(found, expected) for name in ALL)


def test_slots_are_large_enough_for_them(lists: dict[str, Path]) -> None:
    plain = StreamConfig(str(lists["part"]), **SETTINGS)
    sizes = [loader(replace(plain, conditions=some))._slot_bytes() for some in ((), ALL)]
    assert sizes[1] - sizes[0] == 2 * 64 * 64 * (3 + 1 + 4)


def test_a_run_that_is_cut_goes_on(lists: dict[str, Path]) -> None:
    """Also where the first part of it was without conditions."""
    config = StreamConfig(str(lists["part.tar"]), conditions=ALL, **SETTINGS)
    whole = take(loader(config), 10)
    first = loader(replace(config, conditions=()))
    take(first, 4)
    rest = take(loader(config, position=first.position()), 6)
    assert same(rest, whole[4:])
    assert all(np.array_equal(a[name].numpy(), b[name].numpy()) for a, b in zip(rest, whole[4:]) for name in ALL)


def test_records_with_bad_conditions_are_skipped_and_named(tmp_path: Path) -> None:
    good = [scene_record(n) for n in range(4)]
    square, junk = png(scene(90, 90)), b"junk"
    bad = [{}, {"conditioning_image": square}, {"conditioning_image": junk}]
    records = [*good, *(Record(jpeg_bytes(120, 90), "bad", meta) for meta in bad)]
    write_part(tmp_path / "part", records)
    config = StreamConfig(
        str(write_lists(tmp_path, {"set": [tmp_path / "part"]})), conditions=("conditioning",), **SETTINGS
    )
    stream = loader(config, batch_size=4)
    lines = {name.rpartition(":")[2] for batch in take(stream, 6) for name in stream.names(batch["record"])}
    assert lines == {"1", "2", "3", "4"}
    of = "conditioning image"
    reasons = (f"no {of}", f"{of}: other shape than the image", f"{of}: not an image")
    assert set(stream.tally.counts) == set(reasons)
    for line, reason in zip((5, 6, 7), reasons):
        assert stream.tally.examples[reason][0].startswith(f"{tmp_path / 'part'}:{line} ")
    text = "not one record of its 1 parts can be used"
    with pytest.raises(ValueError, match=text):
        take(loader(replace(config, conditions=("depth",))), 1)


def test_a_column_outside_of_the_folder_ends_a_run_before_it_begins(tmp_path: Path) -> None:
    write_scenes(tmp_path / "other", 3)
    folder = write_scenes(tmp_path / "set", 3, conditioning_image="../other/c/{n}.png")
    config = StreamConfig(train_data_dir=str(folder), **SETTINGS)
    assert len(open_sources(config)[0].records) == 3  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"nothing in it can be used(.|\n)*3 image outside of the data set"):
        open_sources(replace(config, conditions=("conditioning",)))


def test_the_buffer_counts_their_bytes(lists: dict[str, Path]) -> None:
    """A window of so many bytes has fewer records when each brings three images; paths cost nothing."""
    record = scene_record(0, 2.0, COLUMNS)
    image, images = len(record.image), sum(map(len, record.meta.values()))

    def window(name: str, num_bytes: float, *more_images: str) -> int:
        part = next(iter(open_sources(StreamConfig(str(lists[name])))[0].parts))
        reader = WindowReader(
            lambda unit, start: read_any(part, start, more_images=more_images), [Unit(0)], WindowLimits(100, num_bytes)
        )
        return len(reader.take())

    for name, held in (("part", 4 / 3 * images), ("part.tar", images), ("part.parquet", images)):
        limit = 2.5 * (image + held)
        assert window(name, limit, *COLUMNS) == 3, name
        assert window(name, limit) == min(7, -(-limit // (0.98 * image))), name
    assert window("folder", 2.5 * (image + images), *COLUMNS) == window("folder", 2.5 * (image + images))


def test_fixing_a_data_set_keeps_them(lists: dict[str, Path], tmp_path: Path) -> None:
    """What inspect_data.py --fix writes has all that the usable records have, in columns of their names."""
    for name in ("part.gz", "part.tar", "folder"):
        sources = open_streams(StreamConfig(str(lists[name])), more_images=COLUMNS)
        cleaned = clean(lists[name], tmp_path / name, sources)
        parts = [part for source in read_file_list(cleaned.file_list) for part in source.parts]
        found = [record for part in parts for _, record in read_any(part, more_images=COLUMNS)]
        assert found == [scene_record(n, 2.0, COLUMNS) for n in range(14)]


def test_collate_stacks_whatever_extras_there_are(lists: dict[str, Path]) -> None:
    config = StreamConfig(str(lists["part"]), conditions=("mask",), **SETTINGS)
    stream = loader(config)
    samples = next(iter(stream._open()))[0] + next(iter(stream._open()))[0]
    stream.close()
    for number, sample in zip(count(), samples):
        sample.extras["number"] = np.array([number], np.int64)
    batch = collate(samples)
    assert batch["number"].numpy().tolist() == [[0], [1]]  # type: ignore[typeddict-item]
    assert batch["mask"].shape == [2, 1, 64, 64]
