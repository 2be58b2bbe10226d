"""The loader: the same batches for any number of workers and devices, exact resuming, honest counting."""

from __future__ import annotations

import base64
import gc
import json
import logging
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppsd.data import loader as loader_module
from ppsd.data import sample as sample_module
from ppsd.data.config import StreamConfig
from ppsd.data.loader import StreamLoader
from ppsd.types import World
from tests.data.streams import fingerprints, take
from tests.images import (
    encode,
    jpeg_bytes,
    noise_image,
    part_line,
    photographs,
    png_header_bytes,
    write_lines,
    write_lists,
    write_parts,
)
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weighted sources of 3 and 1 parts with 38 good records and some bad ones."""
    folder = tmp_path_factory.mktemp("two")
    write_parts(folder, [12, 5, 9], 40, 36, name="a")
    write_parts(folder, [12], 36, 48, name="b")
    bad = [part_line("text", b"no image"), b"one column\n", part_line("small", jpeg_bytes(20, 20)), b"a\tb\t%%%\n"]
    part = folder / "a" / "part-000001"
    part.write_bytes(part.read_bytes() + b"".join(bad))
    parts = {name: sorted((folder / name).iterdir()) for name in ("a", "b")}
    parts["a"].append(folder / "a" / "part-missing")
    return write_lists(folder, parts, [3.0, 1.0])


def loader(file_list: Path, batch_size: int = 4, **options: Any) -> StreamLoader:
    """A small loader; keyword arguments of StreamConfig and StreamLoader."""
    settings = {name: options.pop(name) for name in list(options) if name in StreamConfig.__dataclass_fields__}
    config = StreamConfig(str(file_list), **{"resolution": 32, "buffer_size": 6, "num_lanes": 8, **settings})
    return StreamLoader(config, TOKENIZER, batch_size=batch_size, **{"seed": 5, **options})


def test_a_batch(two_sources: Path) -> None:
    (batch,) = take(loader(two_sources, caption_dropout_rate=0), 1)
    assert (batch["pixels"].shape, batch["pixels"].dtype) == ([4, 3, 32, 32], paddle.uint8)
    assert (batch["input_ids"].shape, batch["input_ids"].dtype) == ([4, 77], paddle.int64)
    assert (batch["weight"].numpy().tolist(), batch["weight"].dtype) == ([1.0] * 4, paddle.float32)
    assert (batch["seed"].shape, batch["seed"].dtype) == ((4,), np.int64)
    assert (batch["cursor"].shape, batch["cursor"].dtype) == ((4, 8), np.int64)
    assert batch["cursor"][:, 0].tolist() == [0, 1, 2, 3]  # a sample a lane
    assert len(set(batch["seed"].tolist())) == 4


@pytest.mark.parametrize("num_workers", [1, 2, 3, 20])
def test_workers_make_no_difference(two_sources: Path, num_workers: int) -> None:
    expected = fingerprints(take(loader(two_sources), 25))
    assert len({sample for batch in expected for sample in batch}) > 95
    many = loader(two_sources, num_workers=num_workers)
    assert fingerprints(take(many, 25)) == expected


def test_fewer_parts_than_workers(tmp_path: Path) -> None:
    file_list = write_parts(tmp_path, [9], 32, 32)
    batches = take(loader(file_list, num_workers=4, caption_dropout_rate=0), 6)
    assert fingerprints(batches) == fingerprints(take(loader(file_list, caption_dropout_rate=0), 6))
    assert len({tuple(ids) for batch in batches for ids in batch["input_ids"].numpy().tolist()}) == 9


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_the_global_batches_of_one(two_sources: Path, devices: int) -> None:
    whole = fingerprints(take(loader(two_sources, batch_size=8), 12))
    ranks = [
        fingerprints(take(loader(two_sources, batch_size=8 // devices, world=World(rank, devices)), 12))
        for rank in range(devices)
    ]
    for index, batch in enumerate(whole):
        together = [ranks[i % devices][index][i // devices] for i in range(8)]
        assert together == batch


def _position_after(file_list: Path, batches: int, devices: int = 1, **options: Any) -> list[dict[str, Any]]:
    """JSON of all devices' positions after so many batches of a global batch of 4."""
    positions = []
    for rank in range(devices):
        stream = loader(file_list, batch_size=4 // devices, world=World(rank, devices), **options)
        iterator = iter(stream)
        assert len(list(islice(iterator, batches))) == batches
        positions.append(json.loads(json.dumps(stream.position())))
        iterator.close()
    return positions


@pytest.mark.parametrize("cut", [1, 2, 5, 9, 13, 22])
@pytest.mark.parametrize(("before", "after"), [((1, 0), (1, 2)), ((1, 2), (2, 0)), ((2, 0), (4, 0)), ((4, 0), (1, 0))])
def test_a_resumed_run_continues_exactly(
    two_sources: Path, cut: int, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Cut within a window, at its end and in later epochs; (devices, workers) before and after may differ."""
    whole = fingerprints(take(loader(two_sources), 26))
    positions = _position_after(two_sources, cut, before[0], num_workers=before[1])
    devices, num_workers = after
    ranks = [
        fingerprints(
            take(
                loader(
                    two_sources,
                    batch_size=4 // devices,
                    world=World(rank, devices),
                    num_workers=num_workers,
                    position=positions,
                ),
                26 - cut,
            )
        )
        for rank in range(devices)
    ]
    continued = [[ranks[i % devices][index][i // devices] for i in range(4)] for index in range(26 - cut)]
    assert continued == whole[cut:]


def test_the_cuts_above_cross_windows_and_epochs(two_sources: Path) -> None:
    cursors = np.concatenate([batch["cursor"] for batch in take(loader(two_sources), 26)])
    assert cursors[:, 3].max() >= 2  # epochs
    assert {1, 2, 3} <= set(cursors[:, 7].tolist())  # offsets within a window
    assert cursors[:, 4].max() >= 1  # the lane of the missing part borrows another


def test_resuming_decodes_nothing_again(two_sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    decode_shrunk = sample_module.decode_shrunk

    def noted(data: bytes, *options: Any, **more: Any) -> Any:
        decoded.append(data)
        return decode_shrunk(data, *options, **more)

    monkeypatch.setattr(sample_module, "decode_shrunk", noted)
    take(loader(two_sources), 10)
    whole = list(decoded)
    for cut in (1, 4, 7):
        decoded.clear()
        position = _position_after(two_sources, cut)
        first = len(decoded)
        take(loader(two_sources, position=position), 10 - cut)
        assert decoded == whole
        assert 0 < first < len(whole)


def test_what_was_prefetched_is_not_in_the_position(two_sources: Path) -> None:
    positions = [_position_after(two_sources, 3, num_workers=workers) for workers in (0, 3)]
    assert positions[0] == positions[1]
    assert positions[0][0]["samples"] == 12
    assert sum(lane["draws"] for lane in positions[0][0]["lanes"].values()) == 12


def test_an_iteration_is_an_epoch_and_the_next_goes_on(two_sources: Path) -> None:
    whole = fingerprints(take(loader(two_sources), 15))
    stream = loader(two_sources, num_records=23, num_workers=2)
    assert len(stream) == 5
    epochs = [fingerprints(stream) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [5, 5, 5]
    assert [batch for epoch in epochs for batch in epoch] == whole
    stream.close()


def test_a_run_resumed_within_an_epoch_first_ends_it(two_sources: Path) -> None:
    whole = fingerprints(take(loader(two_sources), 10))
    stream = loader(two_sources, num_records=20, position=_position_after(two_sources, 3))
    assert [fingerprints(stream), fingerprints(stream)] == [whole[3:5], whole[5:]]


def test_an_iteration_that_is_left_early_is_taken_up_where_it_was_left(two_sources: Path) -> None:
    stream = loader(two_sources, num_workers=2, num_records=40)
    first = take(stream, 3)
    assert stream._pool is None  # no worker is left
    assert fingerprints(first + list(stream)) == fingerprints(take(loader(two_sources), 10))


def test_without_num_records_there_is_no_end_and_no_length(two_sources: Path) -> None:
    with pytest.raises(TypeError, match="num_records"):
        len(loader(two_sources))
    assert len(take(loader(two_sources), 60)) == 60


def test_dropping_the_loader_ends_its_workers(two_sources: Path) -> None:
    stream = loader(two_sources, num_workers=2, num_records=8)
    assert len(list(stream)) == 2
    processes = list(stream._pool._processes)
    assert all(process.is_alive() for process in processes)
    del stream
    gc.collect()
    assert not any(process.is_alive() for process in processes)


def test_the_default_takes_the_lanes_of_the_position(two_sources: Path) -> None:
    position = _position_after(two_sources, 2, num_lanes=12)
    assert loader(two_sources, num_lanes=None, position=position).position()["num_lanes"] == 12
    assert loader(two_sources, num_lanes=None).position()["num_lanes"] == 8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 6}, "seed was 5 and is 6"),
        ({"num_lanes": 16}, "num_lanes was 8 and is 16"),
        ({"buffer_size": 7}, "buffer_size was 6 and is 7"),
        ({"shuffle_every_n_samples": 0}, "was True and is False"),
    ],
)
def test_a_position_of_another_run_is_refused(two_sources: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(two_sources, position=_position_after(two_sources, 1), **changed)


def test_positions_that_do_not_belong_together_are_refused(two_sources: Path, tmp_path: Path) -> None:
    one, two = _position_after(two_sources, 1, 2)
    with pytest.raises(ValueError, match=r"lacks the lanes \[1, 3, 5, 7\]"):
        loader(two_sources, position=one)
    later = _position_after(two_sources, 2, 2)[1]
    with pytest.raises(ValueError, match="samples is 4 and 8"):
        loader(two_sources, position=[one, later])
    with pytest.raises(ValueError, match="the data of --file_list"):
        loader(write_parts(tmp_path, [5, 5]), position=[one, two])
    assert loader(two_sources, position=[two, one]).position()["samples"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": World(0, 3)}, r"8 lanes \(--num_lanes\) cannot be shared by 3 devices"),
        ({"num_records": 7, "world": World(0, 2)}, "--num_records 7 is less than one batch of 4 on each of 2 devices"),
    ],
)
def test_settings_that_do_not_fit_the_devices(two_sources: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(two_sources, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_records_are_counted_by_reason_with_their_place(
    tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    good = [part_line(f"good {i}", jpeg_bytes(40, 40, seed=i)) for i in range(20)]
    bad = [
        b"only one column\n",
        part_line("text", b"a text file"),
        part_line("bomb", png_header_bytes(60000, 60000)),
        part_line("cut", jpeg_bytes(64, 64)[:700]),
        part_line("small", encode(noise_image(31, 90), "PNG")),
        part_line("pixel", encode(noise_image(1, 1), "PNG")),
        b"caption\tNONE\t*not base64*\n",
    ]
    part = write_lines(tmp_path / "part-1", good + bad)
    half = write_lines(tmp_path / "part-2", good * 3, compress=True)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    file_list = write_lists(tmp_path, {"set": [part, half, tmp_path / "part-3"]})
    stream = loader(file_list, num_workers=num_workers, num_lanes=2)
    with caplog.at_level(logging.INFO, "ppsd.data"):
        batches = iter(stream)
        while not caplog.records:  # a line is logged when all lanes have ended an epoch
            next(batches)
        batches.close()
    text = caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.WARNING
    expected = {
        "too few columns": f"{part}:21",
        "not an image": f"{part}:22 11 bytes starting with b'a text f'",
        "too many pixels": f"{part}:23 Image size (3600000000 pixels)",
        "corrupt image": f"{part}:24 OSError: ",
        "too small": f"{part}:25 31 x 90, --resolution is 32",
        "invalid base64": f"{part}:27",
        "truncated gzip": f"{half}:",
        "unreadable part": f"{tmp_path / 'part-3'}:1",
    }
    for reason, where in expected.items():
        assert stream.tally.counts[reason] >= (2 if reason == "too small" else 1)
        assert any(example.startswith(where) for example in stream.tally.examples[reason]), reason
        assert f"{where}" in text
    assert stream.tally.used % 4 == 0


def test_an_epoch_of_the_tally_has_each_bad_record_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "REPORT_SECONDS", 0)
    lines = [part_line(str(i), jpeg_bytes(32, 32) if i % 3 else b"no image") for i in range(60)]
    file_list = write_lists(tmp_path, {"set": [write_lines(tmp_path / "part-1", lines)]})
    stream = loader(file_list, num_lanes=4, num_records=40, batch_size=4)
    counts = Counter()
    with caplog.at_level(logging.INFO, "ppsd.data"):
        for _ in range(3):
            list(stream)
            counts[stream.tally.counts["not an image"]] += 1
    assert [record.getMessage().split("\n")[0][:32] for record in caplog.records] == [
        f"data of epoch {epoch}: 40 samples used" for epoch in (1, 2, 3)
    ]
    assert 55 <= stream.tally.counts["not an image"] <= 60
    assert len(stream.tally.examples["not an image"]) == 5


def test_epochs_of_a_few_images_share_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_list = write_lists(tmp_path, {"set": [write_lines(tmp_path / "part-1", [part_line("a", jpeg_bytes(32, 32))])]})
    stream = loader(file_list, num_lanes=1, num_records=4, batch_size=4)
    with caplog.at_level(logging.INFO, "ppsd.data"):
        for _ in range(3):
            list(stream)
        monkeypatch.setattr(loader_module, "REPORT_SECONDS", 0)
        list(stream)
    assert [record.getMessage() for record in caplog.records] == [
        "data of epoch 1: 4 samples used, 0 records skipped",
        "data of epochs 2 to 4: 12 samples used, 0 records skipped",
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["missing parts", "too small", "empty part"])
def test_a_list_without_a_usable_record_is_an_error(tmp_path: Path, num_workers: int, kind: str) -> None:
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    if kind != "missing parts":
        for part in parts:
            write_lines(part, [part_line("x", jpeg_bytes(24, 24))] * 5 if kind == "too small" else [])
    file_list = write_lists(tmp_path, {"photos": parts})
    reason = {"missing parts": "2 unreadable part", "too small": "10 too small", "empty part": "2 empty part"}[kind]
    with pytest.raises(ValueError, match="photos: not one record of its 2 parts can be used") as error:
        take(loader(file_list, num_workers=num_workers), 1)
    assert reason in str(error.value)
    assert f"{parts[0]}:1" in str(error.value)


def test_missing_and_empty_lists_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.filelist\.list"):
        loader(tmp_path / "nothing.filelist.list")
    (tmp_path / "empty.filelist").write_text("")
    with pytest.raises(ValueError, match=r"empty\.filelist"):
        loader(tmp_path / "empty.filelist")


def test_captions_of_all_kinds(tmp_path: Path) -> None:
    captions = ["", "一只猫", " ".join(f"w{i}" for i in range(10000)), "a red circle"]
    lines = [part_line(caption, jpeg_bytes(32, 32, seed=i)) for i, caption in enumerate(captions)]
    lines.append(part_line("红色的圆".encode("gb18030"), jpeg_bytes(32, 32)))
    file_list = write_lists(tmp_path, {"set": [write_lines(tmp_path / "part-1", lines)]})
    (batch,) = take(loader(file_list, 5, caption_dropout_rate=0, num_lanes=1), 1)
    expected = [
        TOKENIZER(text, padding="max_length", truncation=True, max_length=77)["input_ids"]
        for text in [*captions, "红色的圆"]
    ]
    assert sorted(batch["input_ids"].numpy().tolist()) == sorted(expected)


def test_caption_dropout_and_flips_reach_the_batch(tmp_path: Path) -> None:
    file_list = write_parts(tmp_path, [40], 32, 32)
    empty = TOKENIZER("", padding="max_length", truncation=True, max_length=77)["input_ids"]
    dropped = [
        sum(ids == empty for batch in take(stream, 50) for ids in batch["input_ids"].numpy().tolist())
        for stream in (loader(file_list, caption_dropout_rate=rate) for rate in (0.0, 0.3, 1.0))
    ]
    assert dropped[0] == 0
    assert 35 <= dropped[1] <= 85
    assert dropped[2] == 200


def test_real_photographs_in_the_aes_dialect(tmp_path: Path) -> None:
    rows = [
        b"\t".join([b"0", b"1", json.dumps({"caption_en": name}).encode(), b"3", b"4", base64.b64encode(data)]) + b"\n"
        for name, data in photographs().items()
    ]
    file_list = write_lists(tmp_path, {"set": [write_lines(tmp_path / "part-1.gz", rows, compress=True)]})
    for dialect in ("auto", "laion_aes"):
        (batch,) = take(loader(file_list, 6, dialect=dialect, resolution=256, num_lanes=1, caption_dropout_rate=0), 1)
        assert batch["pixels"].shape == [6, 3, 256, 256]
        assert batch["pixels"].numpy().std() > 20
        assert len({tuple(ids) for ids in batch["input_ids"].numpy().tolist()}) == 6


def test_another_filter_continues_exactly_and_says_what_it_cannot_promise(
    two_sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All records are counted in a position, whether they were used or not."""
    seeds = [seed for batch in take(loader(two_sources), 12) for seed in batch["seed"].tolist()]
    first = loader(two_sources)
    take(first, 5)
    with caplog.at_level(logging.WARNING):
        rest = take(loader(two_sources, filter="num_bytes % 2 == 0", position=first.position()), 3)
    assert "--filter was None and is num_bytes % 2 == 0" in caplog.text
    tall = [seed for batch in rest for seed in batch["seed"].tolist()]
    assert 0 < len(set(tall) & set(seeds[20:])) < 12
    assert not set(tall) & set(seeds[:20])


def test_what_a_filter_leaves_out_is_no_warning(two_sources: Path) -> None:
    filtered = loader(two_sources, filter="num_bytes % 2 == 0", num_records=40)
    take(filtered, 10)
    reasons = filtered.tally.counts
    assert reasons["filter: num_bytes % 2 == 0"] > 0
    assert filtered.tally.unexpected == sum(n for key, n in reasons.items() if not key.startswith("filter"))


def test_an_unknown_data_format_is_an_error_that_names_the_flag(two_sources: Path) -> None:
    with pytest.raises(ValueError, match="--data_format 'webdatset' is not one of auto, laion400m"):
        loader(two_sources, dialect="webdatset")
