from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsd.data.config import StreamConfig
from ppsd.data.decode import CORRUPT_IMAGE, NOT_AN_IMAGE
from ppsd.data.inspection.figures import make_figures
from ppsd.data.inspection.job import PartJob, make_setup
from ppsd.data.inspection.journal import Journal
from ppsd.data.inspection.part import inspect_part
from ppsd.data.inspection.plan import STRIDE, distinct_parts
from ppsd.data.inspection.result import ROW, PartResult
from ppsd.data.inspection.run import empty_summary, inspect_all, inspect_sample
from ppsd.data.inspection.summary import Rows, Summary
from ppsd.data.inspection.verdict import percent, problems, warnings
from ppsd.data.source import RecordSource, open_sources
from ppsd.data.transforms import TOO_SMALL
from ppsd.formats.laion import TOO_FEW_COLUMNS, TRUNCATED_GZIP, UNREADABLE_PART
from ppsd.formats.latents import write_latents
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.webdataset import write_tar
from ppsd.types import LatentRecord, Record
from tests.images import encode, jpeg_bytes, noise_image, part_line, write_lines, write_lists, write_parts
from tests.limits import files_of_at_most

GOOD = [jpeg_bytes(96, 80, seed=i) for i in range(6)]


@pytest.fixture
def file_list(tmp_path: Path) -> Path:
    """Two sources, a.filelist and b.filelist: 14 records, of which 7 can be used, and two parts that end early."""
    cut = GOOD[1][: len(GOOD[1]) // 2]
    mixed = [
        part_line("a red cat", GOOD[0]),
        part_line("nothing", b"nothing at all"),
        part_line("small", jpeg_bytes(40, 90)),
        b"one column\n",
        part_line("cut off", cut),
        part_line("", GOOD[0]),
    ]
    first = write_lines(tmp_path / "a" / "part-000001", mixed)
    second = write_lines(tmp_path / "a" / "part-000002", [part_line(f"a {i}", GOOD[i]) for i in range(3)], True)
    whole = write_lines(tmp_path / "b" / "part-000001", [part_line("a red cat", GOOD[i]) for i in (3, 4)])
    broken = write_lines(tmp_path / "b" / "part-000002", [part_line("b", os.urandom(9000)) for _ in range(9)], True)
    broken.write_bytes(broken.read_bytes()[:30_000])
    sources = {"a": [first, second, first], "b": [whole, broken, tmp_path / "b" / "part-000003"]}
    return write_lists(tmp_path, sources, [0.75, 0.25])


def settings(file_list: Path, **flags: Any) -> StreamConfig:
    return StreamConfig(str(file_list), resolution=64, **flags)


def whole(config: StreamConfig, tokenizer: Any = None, **options: Any) -> Summary:
    sources = open_sources(config)
    setup = make_setup(config, tokenizer, 0, details=True)
    return inspect_all(sources, [distinct_parts(source.parts) for source in sources], setup, **options)


def facts(summary: Summary) -> tuple[Any, ...]:
    """All that does not depend on the time it took."""
    tally = (summary.tally.used, summary.tally.counts, summary.tally.examples)
    numbers = (summary.records, summary.num_bytes, summary.epoch_used, summary.kinds, summary.sources)
    return (*tally, *numbers, summary.failures.examples, sorted(summary.rows.all().tolist()))


def test_everything_is_counted_where_it_is(file_list: Path, tmp_path: Path) -> None:
    summary = whole(settings(file_list))
    a = str(tmp_path / "a" / "part-000001")
    assert summary.tally.used == 7
    read = summary.sources[1].records - 2  # of the part that is cut
    assert summary.records == 6 + 3 + 2 + read
    counts = dict(summary.tally.counts)
    assert counts.pop(NOT_AN_IMAGE) == 1 + read
    assert counts == {TOO_SMALL: 1, TOO_FEW_COLUMNS: 1, CORRUPT_IMAGE: 1, TRUNCATED_GZIP: 1, UNREADABLE_PART: 1}
    assert summary.tally.examples[TOO_SMALL] == [f"{a}:3 40 x 90, --resolution is 64"]
    assert summary.tally.examples[TOO_FEW_COLUMNS][0].startswith(f"{a}:4 ")
    assert summary.tally.examples[CORRUPT_IMAGE][0].startswith(f"{a}:5 ")
    assert [(s.name, s.all_parts, s.parts, s.missing, s.used) for s in summary.sources] == [
        ("a", 3, 2, 0, 5),
        ("b", 3, 3, 1, 2),
    ]
    assert summary.epoch_used == 2 * 2 + 3 + 2  # part 1 of a is listed twice
    assert summary.failures.counts == {TRUNCATED_GZIP: 1, UNREADABLE_PART: 1}
    assert summary.failures.examples[UNREADABLE_PART][0].startswith(f"{tmp_path / 'b' / 'part-000003'}:1 ")
    assert summary.kinds == {"JPEG RGB": 9, "unknown": 1 + read}


def test_figures_are_of_the_usable_records(file_list: Path) -> None:
    figures = make_figures(whole(settings(file_list)).rows.all(), 77)
    assert figures.count == 7
    assert figures.empty_captions == 1
    assert [(count, place.source, place.part, place.number) for count, place in figures.repeated_captions] == [
        (3, 0, 0, 1)
    ]
    assert figures.copies == 2  # GOOD[0] is there three times
    assert [count for count, _ in figures.repeated_images] == [3]
    assert [(place.part, place.number) for place in figures.repeated_images[0][1]] == [(0, 1), (0, 6), (1, 1)]
    assert figures.near == 0
    assert figures.quantiles["width"] == [96] * 9
    assert figures.quantiles["short side"] == [80] * 9
    assert figures.quantiles["aspect ratio"] == [1.2] * 9
    sizes = sorted([len(GOOD[i]) for i in (0, 0, 0, 1, 2, 3, 4)])
    assert figures.quantiles["KB an image"][0::4] == [sizes[0] / 1e3, sizes[3] / 1e3, sizes[-1] / 1e3]


def test_images_that_were_compressed_again_are_found(tmp_path: Path) -> None:
    pictures = [noise_image(200, 160, seed=i) for i in range(8)]
    again = [encode(pictures[i].resize((120, 96)), quality=50) for i in (2, 5)]
    lines = [part_line("x", data) for data in [*map(encode, pictures), *again]]
    file_list = write_lists(tmp_path, {"a": [write_lines(tmp_path / "part-000001", lines)]})
    figures = make_figures(whole(settings(file_list)).rows.all(), 77)
    assert figures.near == 4
    assert {(a.number, b.number) for a, b in figures.near_pairs} == {(3, 9), (6, 10)}
    assert figures.copies == 0


def test_what_is_unusable_is_what_training_skips(file_list: Path) -> None:
    from ppsd.data.loader import StreamLoader
    from tests.tiny import tiny_tokenizer

    config = settings(
        file_list, num_lanes=1, shuffle_every_n_samples=0, buffer_size=1, caption_dropout_rate=0.0, filter="width < 97"
    )
    sources = write_lists(file_list.parent / "b", {"a": [file_list.parent / "a" / "part-000001"]})
    config = replace(config, file_list=str(sources), num_records=2)
    loader = StreamLoader(config, tiny_tokenizer(), batch_size=1, seed=5)
    batches = list(loader)
    loader.close()
    setup = make_setup(config, tiny_tokenizer(), 5, details=True)
    source = open_sources(config)[0]
    result = inspect_part(setup, PartJob(0, 0, source.parts[0], source.read, tiles=2))
    assert result.tally.counts == loader.tally.counts
    assert result.tally.examples == loader.tally.examples
    assert result.tally.used == loader.tally.used == 2
    tiles = sorted(result.tiles, key=lambda tile: tile.where)
    assert [tile.where.rpartition(":")[2] for tile in tiles] == ["1", "6"]
    for tile, batch in zip(tiles, batches):
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(tile.jpeg)))).astype(int)
        trained = batch["pixels"][0].numpy().transpose(1, 2, 0)
        assert np.abs(seen - trained).mean() < 4, "the crop is another one"
    assert tiles[0].kept == "a red cat"
    assert (tiles[0].caption, tiles[0].tokens, tiles[0].cut) == ("a red cat", 7, False)  # "cat" is three


def test_tokens_are_counted_uncut(tmp_path: Path) -> None:
    from tests.tiny import tiny_tokenizer

    captions = ["", "a red circle", "red " * 100, "猫", "red " * 3000]
    lines = [part_line(caption, GOOD[0]) for caption in captions]
    file_list = write_lists(tmp_path, {"a": [write_lines(tmp_path / "part-000001", lines)]})
    config = settings(file_list, max_length=20)
    summary = whole(config, tiny_tokenizer())
    assert summary.rows.all()["tokens"].tolist() == [2, 5, 102, 5, 1000]
    assert make_figures(summary.rows.all(), 20).cut_captions == 2
    cut = {tile.where[-1]: tile for tile in summary.tiles}["3"]
    assert (cut.cut, cut.kept) == (True, " ".join(["red"] * 18))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_interrupted_inspection_goes_on(file_list: Path, tmp_path: Path, num_workers: int) -> None:
    config = settings(file_list)
    path = tmp_path / "state.jsonl"

    def stop(result: PartResult) -> None:
        if (result.source, result.part) == (0, 1):
            raise KeyboardInterrupt

    journal = Journal(path, {"run": 1})
    with pytest.raises(KeyboardInterrupt):
        whole(config, journal=journal, on_result=stop, num_workers=num_workers)
    journal.close()
    assert len(path.read_bytes().splitlines()) == 1 + 2
    with open(path, "ab") as file:
        file.write(b'{"source": 1, "par')  # killed while it wrote
    seen: list[tuple[int, int]] = []
    journal = Journal(path, {"run": 1})
    read = [line["part"] for line in map(json.loads, path.read_bytes().splitlines()[1:])]
    assert read == [0, 1]
    summary = whole(
        config, journal=journal, on_result=lambda r: seen.append((r.source, r.part)), num_workers=num_workers
    )
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert facts(summary) == facts(whole(config))
    again = whole(config, journal=journal)
    journal.close()
    assert len(path.read_bytes().splitlines()) == 1 + 5
    assert facts(again) == facts(summary)


def test_part_that_has_changed_is_read_again(file_list: Path, tmp_path: Path) -> None:
    config = settings(file_list)
    journal = Journal(tmp_path / "state.jsonl", {})
    assert whole(config, journal=journal).tally.used == 7
    write_lines(tmp_path / "b" / "part-000003", [part_line("new", GOOD[5])])
    assert whole(config, journal=journal).tally.used == 8
    assert whole(config, journal=journal).tally.used == 8
    assert sum(1 for _ in journal.results(open_sources(config))) == 5
    journal.close()


def test_file_of_a_folder_that_is_written_anew_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "10_cat").mkdir(parents=True)
    for i in range(3):
        (folder / "10_cat" / f"{i}.jpg").write_bytes(GOOD[i])
    config = settings(write_lists(tmp_path, {"a": [folder]}))
    journal = Journal(tmp_path / "state.jsonl", {})
    assert whole(config, journal=journal).tally.used == 30
    assert sum(1 for _ in journal.results(open_sources(config))) == 1
    (folder / "10_cat" / "1.jpg").write_bytes(b"broken")
    assert whole(config, journal=journal).tally.used == 20
    journal.close()


def test_state_on_a_full_disk_is_named_and_can_be_used_again(file_list: Path, tmp_path: Path) -> None:
    config, state = settings(file_list), tmp_path / "state.jsonl"
    journal = Journal(state, {})
    with files_of_at_most(2000):
        for write in (lambda: whole(config, journal=journal), journal.close):
            with pytest.raises(OSError, match=f"File too large: '{state}'"):
                write()
    journal = Journal(state, {})
    assert facts(whole(config, journal=journal)) == facts(whole(config))
    journal.close()


def test_parts_of_another_list_are_read_again(file_list: Path, tmp_path: Path) -> None:
    """The state may be given with lists whose parts have the same names, or fewer parts."""
    journal = Journal(tmp_path / "state.jsonl", {})
    assert whole(settings(file_list), journal=journal).tally.used == 7
    other = write_lines(tmp_path / "other" / "part-000001", [part_line("x", GOOD[0])])
    config = settings(write_lists(tmp_path / "other", {"a": [other]}))
    assert facts(whole(config, journal=journal)) == facts(whole(config))
    journal.close()


def test_state_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    Journal(path, {"seed": 1}).close()
    Journal(path, {"seed": 1}).close()
    with pytest.raises(ValueError, match=r"state\.jsonl: not the state of this inspection: seed was 1 and is 2"):
        Journal(path, {"seed": 2})
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="its first line is not one"):
        Journal(path, {"seed": 2})
    assert path.read_text() == "something else\n"
    path.write_text('{"inspection": 1}\n{"source": 0}\n')
    with pytest.raises(ValueError, match=r"state\.jsonl:2: damaged"):
        list(Journal(path, {}).results([]))


def test_state_of_another_run_is_replaced_where_nobody_uses_it(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    first = Journal(path, {"settings": {"side": 64, "long": "x" * 200}, "seed": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="side was 64 and is 72 and another process is using it"):
        Journal(path, {"settings": {"side": 72, "long": "x" * 200}, "seed": 1}, replace=True)
    assert path.read_bytes() == before
    first.close()
    second = Journal(path, {"settings": {"side": 64}, "seed": 1}, replace=True)
    assert second.replaced == f"long was '{'x' * 76}... and is None"
    assert path.read_bytes() == b'{"inspection": 1, "settings": {"side": 64}, "seed": 1}\n'
    second.close()
    third = Journal(path, {"settings": {"side": 64}, "seed": 1}, replace=True)
    assert third.replaced == ""
    third.close()


def test_result_comes_back_from_json(file_list: Path) -> None:
    config = settings(file_list)
    source = open_sources(config)[0]
    result = inspect_part(make_setup(config, None, 0, True), PartJob(0, 0, source.parts[0], source.read, tiles=3))
    back = PartResult.from_json(json.loads(json.dumps(result.to_json())))
    assert len(result.tiles) == 2
    assert back.rows.tolist() == result.rows.tolist()
    assert replace(back, rows=ROW) == replace(result, rows=ROW)


@pytest.mark.parametrize("count", [1, 60, 200, 10_000])
def test_sample_is_the_same_for_any_number_of_workers(tmp_path: Path, count: int) -> None:
    config = settings(write_parts(tmp_path, [90, 60, 30, 120]))
    sources = open_sources(config)
    setup = make_setup(config, None, 7, details=False)
    summaries = [inspect_sample(sources, setup, count, num_workers=workers) for workers in (0, 1)]
    assert facts(summaries[0]) == facts(summaries[1])
    assert min(count, 300) <= summaries[0].records < count + 120 / STRIDE + 1
    numbers = [(row["part"], row["number"]) for row in summaries[0].rows.all()]
    assert len(set(numbers)) == len(numbers)
    assert summaries[0].parts == min(4, -(-count // 4))
    other = inspect_sample(sources, make_setup(config, None, 8, details=False), count)
    assert (facts(other) == facts(summaries[0])) == (count == 10_000)


def test_sample_estimates_the_records_of_a_part(tmp_path: Path) -> None:
    sources = open_sources(settings(write_parts(tmp_path, [160, 160])))
    summary = inspect_sample(sources, make_setup(settings(tmp_path), None, 0, details=False), 20)
    assert (summary.sized_parts, summary.sized_records, summary.records) == (2, 320, 20)


def test_sources_of_weight_0_are_not_sampled(tmp_path: Path) -> None:
    parts = [write_lines(tmp_path / f"part-{i}", [part_line("x", GOOD[0])] * 5) for i in range(2)]
    file_list = write_lists(tmp_path, {"a": [parts[0]], "b": [parts[1]]}, [0, 1])
    config = settings(file_list)
    summary = inspect_sample(open_sources(config), make_setup(config, None, 0, details=False), 100)
    assert [source.records for source in summary.sources] == [0, 5]
    assert problems(summary, [1]) == []


def test_repeats_of_parts_are_counted() -> None:
    distinct = distinct_parts(["b", "a", "b", "c", "b", "a"])
    assert distinct.parts.tolist() == [0, 1, 3]
    assert distinct.repeats.tolist() == [3, 2, 1]


def rows_of(contents: Sequence[int]) -> np.ndarray:
    rows = np.zeros(len(contents), ROW)
    rows["content"], rows["good"], rows["characters"] = contents, True, 1
    rows["number"] = np.arange(len(contents)) + 1
    return rows


def test_rows_are_bounded_and_shares_stay() -> None:
    kept = Rows(limit=4000)
    contents = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    contents[5000:7500] = contents[:2500]
    for part in range(10):
        kept.add(PartResult(0, part, "", rows=rows_of(contents[part * 1000 : part * 1000 + 1000])))
        assert len(kept.all()) <= 4000
    assert kept.share == 0.25
    rows = kept.all()
    assert rows["part"].max() == 9
    assert 2200 < len(rows) < 2800
    figures = make_figures(rows, 77)
    assert figures.copies / figures.count == pytest.approx(0.25, abs=0.02)


def result_of(source: int, part: int, used: int, bad: dict[str, int], failure: str | None = None) -> PartResult:
    result = PartResult(source, part, f"part-{part}", records=used + sum(bad.values()), failure=failure)
    result.tally.used = used
    for reason, count in bad.items():
        for number in range(count):
            result.tally.add(reason, f"part-{part}:{number + 1}")
    return result


def test_when_training_cannot_start() -> None:
    def found(*results: PartResult) -> list[str]:
        summary = Summary.of(["a", "b"], [9, 9])
        for result in results:
            summary.add(result)
        return problems(summary, [0, 1])

    missing = [result_of(0, part, 0, {}, UNREADABLE_PART) for part in range(9)]
    fine = result_of(1, 0, 5, {})
    assert found(result_of(0, 0, 1, {NOT_AN_IMAGE: 99}), fine) == []
    assert found(result_of(0, 0, 0, {NOT_AN_IMAGE: 2}), fine) == [
        "a: not one usable record among 2 records of 1 parts, 0 of which cannot be read (2 not an image, e.g. part-0:1)"
    ]
    assert found(*missing[:2], result_of(0, 2, 5, {}), result_of(0, 3, 5, {}), fine) == []
    bad_too = result_of(0, 2, 5, {NOT_AN_IMAGE: 3})
    why = " (2 unreadable part, e.g. part-0:1)"
    for result in missing:
        result.tally.add(UNREADABLE_PART, f"{result.path}:1")
    assert found(*missing[:2], bad_too, fine) == [f"a: 2 of 3 parts cannot be read{why}"]
    assert found(*missing[:1], fine) == [
        "a: not one usable record among 0 records of 1 parts, 1 of which cannot be read"
        " (1 unreadable part, e.g. part-0:1)"
    ]


def test_what_is_warned_of() -> None:
    def found(result: PartResult) -> list[str]:
        summary = Summary.of(["a"], [9])
        summary.add(result)
        return warnings(summary)

    assert found(result_of(0, 0, 90, {NOT_AN_IMAGE: 10})) == []
    assert found(result_of(0, 0, 89, {NOT_AN_IMAGE: 11})) == [
        "11.0 % of the records cannot be used: 11 not an image, e.g. part-0:1"
    ]
    assert found(result_of(0, 0, 1, {"filter: width>9": 99})) == [], "that is what a filter is for"
    assert found(result_of(0, 0, 1, {"filter: no widht": 99})) == [
        "99.0 % of the records cannot be used: 99 filter: no widht, e.g. part-0:1"
    ]
    assert found(result_of(0, 0, 3, {}, TRUNCATED_GZIP)) == [
        "100 % of the parts are missing or damaged: 1 truncated gzip, e.g. part-0"
    ]


def test_percent() -> None:
    assert [percent(n, 10_000) for n in (0, 1, 50, 123, 9_999, 10_000)] == [
        *("0 %", "0.01 %", "0.5 %", "1.2 %", "99.9 %", "100 %")
    ]
    assert percent(0, 0) == "0 %"


def a_part(folder: Path, data_format: str) -> Path:
    records = [Record(GOOD[0], "one", {"score": 1}), Record(b"nothing", "bad"), Record(GOOD[1], "two", {"score": 2})]
    path = folder / f"part-1.{data_format}"
    if data_format == "tar":
        write_tar(path, records)
    elif data_format == "parquet":
        write_parquet(path, records)
    elif data_format == "folder":
        path.mkdir()
        for record in records:
            (path / f"{record.caption}.jpg").write_bytes(record.image)
            (path / f"{record.caption}.txt").write_text(record.caption)
    else:
        latents = [LatentRecord(np.full((8, 8, 12), i, np.float32), f"{i}", {"score": i}) for i in (1, 2)]
        write_latents(path, [(1, latents[0]), (3, latents[1])], {"vae": "0" * 64})
    return path


@pytest.mark.parametrize("data_format", ["tar", "parquet", "folder", "safetensors"])
def test_parts_of_any_format(tmp_path: Path, data_format: str) -> None:
    part = a_part(tmp_path, data_format)
    config = settings(write_lists(tmp_path, {"a": [part]}))
    summary = whole(config)
    latents = data_format == "safetensors"
    assert summary.tally.used == 2
    assert summary.kinds == ({"latents": 2} if latents else {"JPEG RGB": 2, "unknown": 1})
    rows = summary.rows.all()
    good = rows[rows["good"]]
    assert {tuple(row) for row in good[["width", "height"]].tolist()} == {(96, 64) if latents else (96, 80)}
    assert len(set(good["content"].tolist())) == 2
    assert make_figures(rows, 77).quantiles["characters"][-1] == (1 if latents else 3)
    assert len(summary.tiles) == (0 if latents else 2)
    if part.is_file():
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
        assert whole(config).failures.skipped == 1


def test_inspection_does_without_paddle(file_list: Path) -> None:
    code = (
        "import sys; from ppsd.data.config import StreamConfig; from ppsd.data.inspection.check import check_data;"
        f"result = check_data(StreamConfig({str(file_list)!r}, resolution=64), None);"
        "sys.exit('paddle' in sys.modules or result.summary.tally.used)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9  # part 1 of a is listed twice


def test_records_beyond_a_failure_are_not_invented() -> None:
    def read(path: str, start: int = 0, *, every: int = 1, offset: int = 0) -> Iterator[tuple[int, Any]]:
        for number in range(1, 33):
            if (number - 1) % every == offset:
                yield number, Record(GOOD[0], "x")

    config = StreamConfig("", resolution=64)
    job = PartJob(0, 0, "none", read, every=4, offset=1, limit=5)
    cut = inspect_part(make_setup(config, None, 0, False), job)
    assert (cut.records, cut.estimate, cut.rows["number"].tolist()) == (5, None, [2, 6, 10, 14, 18])
    whole_part = inspect_part(make_setup(config, None, 0, False), replace(job, limit=99))
    assert (whole_part.records, whole_part.estimate) == (8, 32)
    assert (whole_part.missing, whole_part.stamp) == (False, None)
    assert empty_summary([RecordSource("a", ("x",), read)]).sources[0].all_parts == 1
