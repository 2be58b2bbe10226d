from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ppsd.data import converting
from ppsd.data.converting import Job, Written, write_parts
from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import write_part
from ppsd.formats.parts import read_any
from ppsd.formats.webdataset import write_tar
from ppsd.types import BadRecord, LatentRecord, Record
from tests.images import encode, jpeg_bytes, noise_image, part_line, photographs, write_lines, write_lists

SCRIPT = Path(__file__).parents[2] / "tools" / "convert_dataset.py"
_spec = importlib.util.spec_from_file_location("convert_dataset", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

FORMATS = ("laion400m", "webdataset", "parquet", "image_folder")
LIST = "filelist/custom_dataset.filelist.list"


def example(number: int) -> Record:
    """Records of all kinds of images, captions and meta."""
    kinds = ("JPEG", "PNG", "WEBP", "GIF")
    image = encode(noise_image(12 + number, 16, seed=number), kinds[number % 4])
    captions = (f"picture {number}", "", "一只戴帽子的猫", " blanks  around ", '"quoted", {braces}')
    meta = {"similarity": number / 8, "width": number, "url": f"http://x/{number}?é", "tags": ["a", {"b": None}]}
    more = ("another", f"caption {number}")
    return Record(image, captions[number % 5], meta if number % 3 else {}, more if number % 2 else ())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the LAION parts in/part-000001 ... of 12, 5 and 9 records."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    numbers = iter(range(26))
    for part, count in enumerate((12, 5, 9), start=1):
        write_part(f"in/part-{part:06d}", [example(next(numbers)) for _ in range(count)])
    return tmp_path


def convert(*inputs: str, to: str, output: str = "out", **flags: Any) -> int:
    """Run the tool in this process, without workers unless told otherwise; returns its exit code."""
    argv = ["--input", *inputs, "--output_path", output, "--output_format", to, "--disable_tqdm"]
    for name, value in {"num_workers": 0, **flags}.items():
        argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return tool.main(argv)


def tree(path: str = "out") -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


def listed_parts(output: str = "out") -> list[str]:
    return [part for source in read_file_list(Path(output, LIST)) for part in source.parts]


def records(output: str = "out") -> list[Record | BadRecord]:
    return [record for part in listed_parts(output) for _, record in read_any(part)]


@pytest.mark.parametrize("between", [f for f in FORMATS if f != "laion400m"])
@pytest.mark.parametrize("flags", [{}, {"save_gzip_file": True}])
def test_there_and_back_again_to_the_byte(folder: Path, between: str, flags: dict[str, Any]) -> None:
    assert convert("in", to="laion400m", output="first", **flags) == 0
    there = flags if between == "webdataset" else {}
    assert convert(f"first/{LIST}", to=between, output="between", **there) == 0
    assert convert(f"between/{LIST}", to="laion400m", output="second", **flags) == 0
    assert len(tree("first")) == 3 + 2
    assert tree("second") == tree("first")


def test_laion_to_laion_is_the_same_bytes(folder: Path) -> None:
    assert convert("in", to="laion400m") == 0
    assert [tree()[f"laion400m_format_data/part-00000{n}"] for n in (1, 2, 3)] == list(tree("in").values())


@pytest.mark.parametrize("output_format", FORMATS)
def test_what_is_written_is_what_was_read(folder: Path, output_format: str) -> None:
    assert convert("in/part-000001", "in/part-000003", to=output_format) == 0
    numbers = [*range(12), *range(17, 26)]
    assert [record.image for record in records()] == [example(n).image for n in numbers]
    assert [record.caption for record in records()] == [example(n).caption for n in numbers]
    assert [record.more_captions for record in records()] == [example(n).more_captions for n in numbers]
    expected = [{**example(n).meta, "tags": ["a", {}]} if example(n).meta else {} for n in numbers]
    assert [dict(record.meta) for record in records()] == expected
    suffix = {"webdataset": ".tar", "parquet": ".parquet"}.get(output_format, "")
    places = [f"out/{output_format}_format_data/part-00000{n}{suffix}" for n in (1, 2)]
    assert [os.path.relpath(part) for part in listed_parts()] == places


@pytest.mark.parametrize("output_format", FORMATS)
def test_parts_are_split(folder: Path, output_format: str) -> None:
    assert convert("in", to=output_format, per_part_file_num=5) == 0
    assert [sum(1 for _ in read_any(part)) for part in listed_parts()] == [5, 5, 2, 5, 5, 4]
    assert [record.image for record in records()] == [example(n).image for n in range(26)]


def test_workers_do_not_change_a_byte(folder: Path) -> None:
    for output, workers in (("out", 0), ("two", 2)):
        assert convert("in", to="webdataset", output=output, per_part_file_num=5, num_workers=workers) == 0
    assert tree("two") == tree("out")
    assert len(tree("out")) == 6 + 2


def test_laion_parts_by_an_independent_reader(folder: Path) -> None:
    """The public recipe reads caption, placeholder and image of a line and no further."""
    for between in ("webdataset", "parquet", "image_folder"):
        assert convert("in", to=between, output=between) == 0
        assert convert(f"{between}/{LIST}", to="laion400m", save_gzip_file=True) == 0
        parts = [gzip.decompress(data).decode() for name, data in tree().items() if name.endswith(".gz")]
        lines = [line.split("\t") for part in parts for line in part.removesuffix("\n").split("\n")]
        for number, columns in enumerate(lines):
            plain = not (number % 3 or number % 2)
            assert len(columns) == (3 if plain else 4)
            assert columns[0] == example(number).caption
            assert columns[1] == "NONE"
            assert base64.b64decode(columns[2], validate=True) == example(number).image
            extras = {} if plain else json.loads(columns[3])
            assert tuple(extras.get("captions", ())) == example(number).more_captions
            assert extras.get("similarity") == example(number).meta.get("similarity")
        assert len(lines) == 26
    assert Path("out", LIST).read_text() == "../filelist/custom_dataset.filelist\n"
    parts = [f"../laion400m_format_data/part-00000{n}.gz\n" for n in (1, 2, 3)]
    assert Path("out/filelist/custom_dataset.filelist").read_text() == "".join(parts)


def test_files_of_the_public_recipe_are_read(folder: Path) -> None:
    photos = list(photographs().values())[-2:] * 3
    parts = [
        write_lines(folder / f"data/part-{n}.gz", [part_line(f"photo {i}", photos[i]) for i in range(n, n + 3)], True)
        for n in (0, 3)
    ]
    file_list = write_lists(folder, {"recipe": [*parts, *parts]})
    for output_format in FORMATS:
        assert convert(str(file_list), to=output_format, output=output_format) == 0
        expected = [Record(photos[i], f"photo {i}") for i in range(6)]
        assert records(output_format) == expected


def test_webdataset_reads_what_is_written(folder: Path) -> None:
    wds = pytest.importorskip("webdataset")
    assert convert("in", to="webdataset", per_part_file_num=5) == 0
    samples = [sample for part in listed_parts() for sample in wds.WebDataset(part, shardshuffle=False)]
    assert [sample["txt"].decode() for sample in samples] == [example(n).caption for n in range(26)]
    assert len({sample["__key__"] for sample in samples}) == 26
    assert [sample["__key__"] for sample in samples][4:6] == ["000001_000005", "000001_000006"]
    assert json.loads(samples[1]["json"])["captions"] == ["another", "caption 1"]


def test_pandas_reads_what_is_written(folder: Path) -> None:
    assert convert("in", to="parquet") == 0
    frame = pd.concat([pd.read_parquet(part) for part in listed_parts()], ignore_index=True)
    assert [row["bytes"] for row in frame["image"]] == [example(n).image for n in range(26)]
    assert list(frame["text"]) == [example(n).caption for n in range(26)]
    assert frame["similarity"][1] == 0.125


def test_image_folder_and_jsonl_inputs(folder: Path) -> None:
    for place in ("set/3_a dog", "set/meta"):
        Path(place).mkdir(parents=True)
        Path(place, "0.jpg").write_bytes(jpeg_bytes(16, 16))
        Path(place, "m.png").write_bytes(encode(noise_image(16, 16), "PNG"))
    row = {"file_name": "0.jpg", "text": ["first", "second"], "score": 2, "mask": "m.png"}
    Path("set/meta/metadata.jsonl").write_text(json.dumps(row))
    rows = [{"image": "meta/0.jpg", "caption": ["x", "y"], "id": 7}, {"image": "gone.jpg", "caption": "x"}]
    Path("set/list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert convert("set", "set/list.jsonl", to="laion400m", per_part_file_num=3) == 0
    dog, meta = ["a dog"] * 6, Record(jpeg_bytes(16, 16), "first", {"score": 2}, ("second",))
    assert sorted(record.caption for record in records()) == sorted([*dog, "first", "x"])
    assert [record for record in records() if record.caption == "first"] == [meta]
    assert records()[-1] == Record(jpeg_bytes(16, 16), "x", {"id": 7}, ("y",))
    assert convert("set/meta", to="image_folder", output="folder") == 0
    part = "folder/image_folder_format_data/part-000001"
    assert sorted(os.listdir(part)) == ["000001.jpg", "000001.mask.png", "metadata.jsonl"]
    assert Path(part, "000001.mask.png").read_bytes() == Path("set/meta/m.png").read_bytes()
    (record,) = records("folder")
    assert record.meta["score"] == 2
    assert os.path.samefile(record.meta["mask"], f"{part}/000001.mask.png")


def test_folder_of_img2dataset(folder: Path) -> None:
    Path("crawl").mkdir()
    for name, numbers in (("00000", range(3)), ("00001", range(3, 5))):
        write_tar(f"crawl/{name}.tar", [example(n) for n in numbers])
        pd.DataFrame({"url": ["x"], "caption": ["meta alone"]}).to_parquet(f"crawl/{name}.parquet")
        Path(f"crawl/{name}_stats.json").write_text("{}")
    assert convert("crawl", to="laion400m") == 0
    assert [record.image for record in records()] == [example(n).image for n in range(5)]


@pytest.mark.parametrize("output_format", FORMATS)
def test_folder_that_a_tool_has_written_is_its_list(
    folder: Path, output_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("in", to=output_format, output="first") == 0
    assert convert("first", to="laion400m") == 0
    assert [record.image for record in records()] == [example(n).image for n in range(26)]
    Path("first/filelist/more.filelist.list").touch()
    capsys.readouterr()
    assert convert("first", to="laion400m", output="second") == 1
    lists = f"first/{LIST}, first/filelist/more.filelist.list"
    assert f"--input first: has several lists; name one of {lists}\n" in capsys.readouterr().err


def test_columns_are_the_users(folder: Path) -> None:
    write_tar("a.tar", [Record(jpeg_bytes(8, 8), "txt", {"blip": "by blip"})])
    assert convert("a.tar", to="laion400m", caption_column="blip") == 0
    assert records() == [Record(jpeg_bytes(8, 8), "by blip", {}, ("txt",))]
    assert convert("a.tar", to="laion400m", image_column="png") == 1


def test_filter_leaves_out_and_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("in", to="webdataset", filter="width >= 30 and caption_words >= 1") == 0
    taken = [n for n in range(26) if n + 12 >= 30 and example(n).caption]
    assert [record.image for record in records()] == [example(n).image for n in taken]
    out = capsys.readouterr().out
    assert f"{len(taken)} samples used, {26 - len(taken)} records skipped" in out
    assert "18 filter: width >= 30, e.g.\n    in/part-000001:1 width = 12" in out


def test_what_cannot_be_used_is_counted_with_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = part_line("good", jpeg_bytes(8, 8))
    bad = [b"one column\n", part_line("text", b"hello"), part_line("x" * (2**20 + 1), jpeg_bytes(8, 8))]
    long = good.rstrip(b"\n") + b'\t{"a": "' + b"x" * (2**18 - 20) + b'"}\n'
    write_lines(folder / "a", [good, *bad, good, long])
    cut = write_lines(folder / "b.gz", [part_line(str(n), jpeg_bytes(seed=n)) for n in range(50)], compress=True)
    cut.write_bytes(cut.read_bytes()[:-100])
    Path("c.safetensors").write_bytes(b"no safetensors")
    assert convert("a", "b.gz", "c.safetensors", "in/part-000002", to="parquet") == 0
    out = capsys.readouterr().out
    assert "57 samples used, 5 records skipped" in out
    for reason, where in (
        ("too few columns", "a:2 1 of 3"),
        ("not an image", "a:3 5 bytes starting with b'hello'"),
        ("caption too long", "a:4 1048577 bytes, the limit is 1048576"),
        ("truncated gzip", "b.gz:50 the file ends after 49 whole lines"),
        ("not a latents file", "c.safetensors:1 "),
    ):
        assert f"  1 {reason}, e.g.\n    {where}" in out
    assert len(records()) == 57


def test_meta_that_a_line_cannot_hold_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [jpeg_bytes(8, 8, seed=n) for n in range(3)]
    metas = ({"a": "x" * 2**18}, {"a": "x" * (2**18 - 9)}, {})
    write_tar("a.tar", [Record(image, "cat", meta) for image, meta in zip(images, metas)])
    assert convert("a.tar", to="laion400m") == 0
    assert [dict(record.meta) for record in records()] == [metas[1], {}]
    long = "1 meta too long, e.g.\n    a.tar:1 262152 bytes with further captions, the limit is 262144\n"
    assert long in capsys.readouterr().out


def test_cached_latents_hold_no_images() -> None:
    latents = LatentRecord(np.zeros((8, 4, 4), np.float32), "cat")
    assert converting.check_any(latents) == BadRecord(
        "cached latents", "no image is in it; convert the parts that it was made from"
    )


def test_nothing_to_convert_is_exit_code_1_and_leaves_old_data_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad").write_text("no part\n")
    assert convert("bad", to="parquet") == 1
    assert tree() == {}
    assert convert("in", to="parquet") == 0
    before = tree()
    capsys.readouterr()
    assert convert("bad", to="parquet") == 1
    assert convert("in", to="parquet", filter="width > 1000") == 1
    assert tree() == before
    assert capsys.readouterr().err.count("convert_dataset.py: error: nothing was written") == 2


@pytest.mark.parametrize("output_format", FORMATS)
def test_run_that_fails_leaves_no_list_and_nothing_half_done(
    folder: Path, output_format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("in", to=output_format) == 0
    old = tree()

    def full_disk(job: Job) -> Written:
        if job.number == 2:
            job.target.layout.staged(2, 0).touch()
            raise OSError(28, "No space left on device", "part")
        return write_parts(job)

    monkeypatch.setattr(converting, "write_parts", full_disk)
    assert convert("in/part-000002", "in/part-000001", to=output_format) == 1
    assert capsys.readouterr().err == "convert_dataset.py: error: part: No space left on device\n"
    left = tree()
    assert not [name for name in left if "filelist" in name or ".tmp" in name]
    assert {name.split("/")[1][:11] for name in left} == {f"part-00000{n}" for n in (1, 2, 3)}
    assert {name: data for name, data in old.items() if "part-000003" in name}.items() <= left.items()
    assert convert("in", to=output_format) == 1
    monkeypatch.undo()
    os.chdir(folder)
    assert convert("in", to=output_format) == 0
    assert tree() == old


def killed_on_the_way(job: Job) -> Written:
    if job.number == 1:
        return write_parts(job)
    job.target.layout.staged(2, 0).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def test_worker_that_is_killed_ends_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(converting, "write_parts", killed_on_the_way)
    assert convert("in", to="parquet", num_workers=1) == 1
    assert "error: a worker process was killed or crashed" in capsys.readouterr().err
    assert set(tree()) <= {"parquet_format_data/part-000001.parquet"}


def test_fewer_parts_than_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("in", to="image_folder") == 0
    assert convert("in/part-000003", to="image_folder") == 0
    left = "Left from an earlier run and not in the list: 2 parts, e.g. out/image_folder_format_data/part-000002\n"
    assert left in capsys.readouterr().out
    assert [record.image for record in records()] == [example(n).image for n in range(17, 26)]


def test_output_that_was_moved_is_read_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for output_format in ("webdataset", "image_folder"):
        assert convert("in", to=output_format, output=output_format) == 0
        shutil.move(output_format, f"moved/{output_format}")
        monkeypatch.chdir(folder / "in")
        assert len(records(f"../moved/{output_format}")) == 26
        monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["gone"], "--input gone: there is no such file or folder"),
        (["gone.filelist.list"], "gone.filelist.list: file list not found"),
        (["out/parquet_format_data"], "--input out/parquet_format_data: what is written to"),
        (["out/parquet_format_data/part-000001.parquet"], "--input out/parquet_format_data: what is written to"),
        (["out"], "--input out: what is written to out/parquet_format_data would lie in it"),
    ],
)
def test_bad_inputs_are_one_line_and_exit_code_1(
    folder: Path, capsys: pytest.CaptureFixture[str], inputs: list[str], message: str
) -> None:
    assert convert("in", to="parquet") == 0
    before = tree()
    assert convert(*inputs, to="parquet") == 1
    err = capsys.readouterr().err
    assert err.startswith(f"convert_dataset.py: error: {message}")
    assert err.count("\n") == 1
    assert tree() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_format", "zip"], "argument --output_format: invalid choice: 'zip'"),
        (["--output_format", "parquet", "--save_gzip_file"], "argument --save_gzip_file: parquet has no such files"),
        (["--output_format", "parquet", "--filter", "width >"], "argument --filter: "),
        (["--output_format", "parquet", "--caption=x"], "unrecognized arguments: --caption=x; did you mean"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.parse_args(["--input", "in", "--output_path", "out", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_part_that_would_be_replaced_is_not_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("in", to="image_folder") == 0
    before = tree()
    part = "out/image_folder_format_data/part-000001"
    assert convert(part, to="image_folder") == 1
    assert f"--input {part}: what is written to" in capsys.readouterr().err
    assert tree() == before


def test_as_a_script_with_workers_and_a_progress_bar(folder: Path) -> None:
    command = [sys.executable, SCRIPT, "--input", "in", "--output_path", "out", "--output_format", "webdataset"]
    run = subprocess.run([*command, "--num_workers", "2"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    assert "Converting: 100%" in run.stderr
    assert "26 records in 3 parts" in run.stdout
    assert len(records()) == 26
