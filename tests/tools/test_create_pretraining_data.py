from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ppsd.data import packing
from ppsd.data.packing import Job, Packed, pack_part
from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import read_part
from ppsd.types import Record
from tests.images import jpeg_bytes, photographs, png_header_bytes

SCRIPT = Path(__file__).parents[2] / "tools" / "create_pretraining_data.py"
_spec = importlib.util.spec_from_file_location("create_pretraining_data", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

Rows = Iterable["dict[str, Any] | str | bytes"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with in/0.jpg ... in/9.jpg."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for i in range(10):
        Path(f"in/{i}.jpg").write_bytes(jpeg_bytes(16, 16, seed=i))
    return tmp_path


def write_jsonl(rows: Rows, path: str = "in/data.jsonl") -> str:
    lines = [json.dumps(row, ensure_ascii=False) if isinstance(row, dict) else row for row in rows]
    Path(path).write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def numbered(count: int) -> list[dict[str, str]]:
    return [{"image": f"{i % 10}.jpg", "caption": f"picture {i}"} for i in range(count)]


def create(input_path: str, output_path: str = "out", **flags: Any) -> int:
    """Run the tool in this process, without workers unless told otherwise; returns its exit code."""
    options = {"num_workers": 0, **flags}
    argv = ["--input_path", input_path, "--output_path", output_path, "--disable_tqdm"]
    for name, value in options.items():
        argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return tool.main(argv)


def packed_records(file_list: str = "out/filelist/custom_dataset.filelist.list") -> list[Record]:
    parts = [part for source in read_file_list(file_list) for part in source.parts]
    records = [record for part in parts for _, record in read_part(part)]
    assert all(isinstance(record, Record) for record in records)
    return records


def tree(path: str = "out") -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


@pytest.mark.parametrize("flags", [{}, {"save_gzip_file": True}])
def test_photographs_go_in_and_come_out_byte_for_byte(folder: Path, flags: dict[str, Any]) -> None:
    photos = photographs()
    assert len(photos) == 6
    for name, data in photos.items():
        (folder / "in" / name).write_bytes(data)
    rows = [{"image": name, "caption": f"a photograph, {name}", "image_id": name} for name in photos]
    assert create(write_jsonl(rows), per_part_file_num=4, num_repeat=3, **flags) == 0
    end = ".gz" if flags else ""
    parts = [f"laion400m_format_data/part-00000{n}{end}" for n in (1, 2)]
    lists = ["filelist/custom_dataset.filelist", "filelist/custom_dataset.filelist.list"]
    assert list(tree()) == [*lists, *parts]
    assert Path("out", lists[0]).read_text().split("\n") == [f"../{part}" for part in parts] * 3 + [""]
    assert Path("out", lists[1]).read_text() == "../filelist/custom_dataset.filelist\n"
    expected = [Record(data, f"a photograph, {name}") for name, data in photos.items()]
    assert packed_records() == expected * 3


def test_the_number_of_workers_does_not_change_a_byte(folder: Path) -> None:
    rows = [*numbered(50), {"image": "none.jpg", "caption": ""}, "broken"]
    for output, workers in (("out", 0), ("one", 1), ("two", 2)):
        flags = {"num_workers": workers, "per_part_file_num": 7, "save_gzip_file": True}
        assert create(write_jsonl(rows), output, **flags) == 0
        assert tree(output) == tree("out")
    assert len(tree()) == 8 + 2


def test_captions_of_every_kind(folder: Path) -> None:
    captions = ["", "一只戴帽子的猫", "word " * 10_000, "tab\tand\r\nline", " blanks ", '"quoted"']
    rows = [{"image": f"{i}.jpg", "caption": caption} for i, caption in enumerate(captions)]
    gb = json.dumps({"image": "7.jpg", "caption": "红色的圆形在蓝色背景上"}, ensure_ascii=False).encode("gb18030")
    several = {"image": "8.jpg", "caption": ["first", "second"]}
    assert create(write_jsonl([*rows, gb, several])) == 0
    expected = [*captions[:3], "tab and line", *captions[4:], "红色的圆形在蓝色背景上", "first"]
    assert [record.caption for record in packed_records()] == expected


def test_keys_name_and_subfolders_are_the_users(folder: Path) -> None:
    rows = [{"path": str(folder / "in/1.jpg"), "prompt": "p", "caption": "c"}]
    assert create(write_jsonl(rows), "new/deep", image_key="path", caption_key="prompt", output_name="mine") == 0
    assert [record.caption for record in packed_records("new/deep/filelist/mine.filelist.list")] == ["p"]


def test_what_cannot_be_used_is_counted_with_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "bomb.png": png_header_bytes(60_000, 60_000),
        "huge.png": jpeg_bytes() + bytes(48 * 2**20),
    }
    for name, data in files.items():
        Path("in", name).write_bytes(data)
    Path("in/folder.jpg").mkdir()
    rows = [{"image": name, "caption": "x"} for name in (*files, "folder.jpg", "gone.jpg", "1.jpg", "2.jpg")]
    more = [{"image": "1.jpg"}, {"image": "1.jpg", "caption": "x" * (2**20 + 1)}, '{"image": "1.jpg", ', b"\xff\xff"]
    assert create(write_jsonl([*rows, *more])) == 0
    out = capsys.readouterr().out
    assert "2 samples used, 10 records skipped" in out
    assert "2 records in 1 parts" in out
    assert "2 missing image, e.g.\n    in/data.jsonl:5 in/folder.jpg\n    in/data.jsonl:6 in/gone.jpg\n" in out
    for reason, example in (
        ("empty image", "in/data.jsonl:1 in/empty.jpg"),
        ("not an image", "in/data.jsonl:2 in/text.jpg: 5 bytes starting with b'hello'"),
        ("too many pixels", "in/data.jsonl:3 in/bomb.png: "),
        ("image file too large", "in/data.jsonl:4 in/huge.png: 50333"),
        ("no caption", "in/data.jsonl:9 no text under 'caption': 'keys are image'"),
        ("caption too long", "in/data.jsonl:10 1048577 bytes, the limit is 1048576"),
        ("invalid JSON", "in/data.jsonl:11 Expecting property name"),
        ("not valid text", "in/data.jsonl:12 neither UTF-8 nor GB18030"),
    ):
        assert f"  1 {reason}, e.g.\n    {example}" in out


def test_part_without_a_usable_image_is_left_out(folder: Path) -> None:
    Path("in/text.jpg").write_text("hello")
    bad = {"image": "text.jpg", "caption": "x"}
    assert create(write_jsonl([*numbered(2), bad, bad, *numbered(1)]), per_part_file_num=2) == 0
    assert sorted(os.listdir("out/laion400m_format_data")) == ["part-000001", "part-000003"]
    assert len(packed_records()) == 3


@pytest.mark.parametrize(
    "rows", [[], ["broken"], [{"image": "gone.jpg", "caption": "x"}], [{"image": "text.jpg", "caption": "x"}]]
)
def test_nothing_to_pack_is_exit_code_1_and_leaves_old_data_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], rows: Rows
) -> None:
    Path("in/text.jpg").write_text("hello")
    assert create(write_jsonl(rows)) == 1
    assert tree() == {}
    assert create(write_jsonl(numbered(3))) == 0
    before = tree()
    capsys.readouterr()
    assert create(write_jsonl(rows)) == 1
    assert tree() == before
    assert capsys.readouterr().err.count("\n") == 1


class FullDisk:
    """Packs one part, then fails in the middle of writing the next."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path, records: Iterable[Record], gzip: bool) -> int:
        self.calls += 1

        def failing() -> Iterable[Record]:
            yield next(iter(records))
            raise OSError(28, "No space left on device")

        return self.write(path, records if self.calls == 1 else failing(), gzip)

    write = staticmethod(packing.write_part)


def test_run_that_fails_leaves_no_list_over_replaced_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create(write_jsonl(numbered(6)), per_part_file_num=2) == 0
    old = tree()
    monkeypatch.setattr(packing, "write_part", FullDisk())
    assert create(write_jsonl(numbered(9)[3:]), per_part_file_num=2) == 1
    expected = f"create_pretraining_data.py: error: {Path('out/laion400m_format_data/part-000002')}: "
    assert capsys.readouterr().err == f"{expected}No space left on device\n"
    new = tree()
    assert sorted(new) == [f"laion400m_format_data/part-00000{n}" for n in (1, 2, 3)]
    assert [new[name] == old[name] for name in sorted(new)] == [False, True, True]


def test_disk_that_fills_up_in_a_worker(folder: Path) -> None:
    command = [sys.executable, SCRIPT, "--input_path", write_jsonl(numbered(3000)), "--output_path", "out"]
    limit = 100_000
    run = subprocess.run(
        [*command, "--num_workers", "2", "--disable_tqdm"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert run.stderr == "create_pretraining_data.py: error: out/laion400m_format_data/part-000001: File too large\n"
    assert tree() == {}


def killed_on_the_way(job: Job) -> tuple[int, Packed]:
    if job.part.name == "part-000001":
        return pack_part(job)
    job.part.with_name(".part-000002.0123.tmp").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def test_worker_that_is_killed_ends_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packing, "pack_part", killed_on_the_way)
    assert create(write_jsonl(numbered(10)), per_part_file_num=2, num_workers=1) == 1
    assert "error: a worker process was killed or crashed" in capsys.readouterr().err
    assert list(tree()) == ["laion400m_format_data/part-000001"]


def test_fewer_parts_than_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(write_jsonl(numbered(6)), per_part_file_num=2) == 0
    Path("out/laion400m_format_data/.part-000009.12.tmp").touch()
    capsys.readouterr()
    assert create(write_jsonl(numbered(2)), save_gzip_file=True) == 0
    left = "Left from an earlier run and not in the list: 3 parts, e.g. out/laion400m_format_data/part-000001\n"
    assert left in capsys.readouterr().out
    assert len(packed_records()) == 2
    assert len(os.listdir("out/laion400m_format_data")) == 4


def test_parts_of_another_data_set_are_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(write_jsonl(numbered(3)), output_name="first") == 0
    before = tree()
    assert create(write_jsonl(numbered(2)), output_name="second") == 1
    assert "out/filelist/first.filelist names parts in out/laion400m_format_data" in capsys.readouterr().err
    assert tree() == before


def test_output_that_was_moved_is_read_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert create(write_jsonl(numbered(3))) == 0
    shutil.move("out", "elsewhere")
    for place in ("in", "elsewhere", "elsewhere/filelist"):
        monkeypatch.chdir(folder / place)
        assert len(packed_records(os.path.relpath(folder / "elsewhere/filelist/custom_dataset.filelist.list"))) == 3


def test_image_folder_with_metadata(folder: Path) -> None:
    Path("in/metadata.csv").write_text("file_name,text,prompt\n3.jpg,three,a\n1.jpg,one,b\n")
    assert create("in") == 0
    image = Path("in/3.jpg").read_bytes()
    assert packed_records()[0] == Record(image, "three")
    assert create("in", caption_key="prompt") == 0
    assert [record.caption for record in packed_records()] == ["a", "b"]


def test_image_folder_with_caption_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in (2, 0):
        Path(f"in/{i}.txt").write_text(f"number {i}\n")
    assert create("in") == 0
    assert [record.caption for record in packed_records()] == ["number 0", "number 2"]
    assert "8 no caption, e.g.\n    in/1.jpg\n" in capsys.readouterr().out


def test_repeats_of_folders_are_spread_out(folder: Path) -> None:
    for place, name in (("3_a dog", "0.jpg"), ("1_cat", "1.jpg"), ("0_off", "2.jpg"), ("3_a dog", "3.jpg")):
        Path("set", place).mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("in", name), Path("set", place))
    Path("set/3_a dog/3.txt").write_text("my dog")
    assert create("set") == 0
    assert [record.caption for record in packed_records()] == ["cat", *["a dog", "my dog"] * 3]


def test_long_input_is_not_held_in_memory(folder: Path) -> None:
    rows = [{"image": f"{i % 10}.jpg", "caption": "word " * 400} for i in range(4000)]
    path = write_jsonl(rows)
    assert Path(path).stat().st_size > 8_000_000
    del rows
    tracemalloc.start()
    assert create(path, per_part_file_num=100) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"input_path": "gone.jsonl"}, "--input_path gone.jsonl: there is no such file or folder"),
        ({"output_path": "in/1.jpg/below"}, "in/1.jpg/below/laion400m_format_data: Not a directory"),
        ({"output_path": "in/1.jpg"}, "in/1.jpg/laion400m_format_data: Not a directory"),
        ({"output_name": "a/b"}, "name 'a/b': expected a name for files, without slashes and blanks"),
    ],
)
def test_bad_paths_are_one_line_and_exit_code_1(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, str], message: str
) -> None:
    assert create(**{"input_path": write_jsonl(numbered(2)), **flags}) == 1
    assert capsys.readouterr().err == f"create_pretraining_data.py: error: {message}\n"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--caption_kei=x", "unrecognized arguments: --caption_kei=x; did you mean --caption_key?"),
        ("--save_gzip", "unrecognized arguments: --save_gzip; did you mean --save_gzip_file?"),
        ("--per_part_file_num=0", "argument --per_part_file_num: '0' is not an integer >= 1"),
        ("--num_workers=-1", "argument --num_workers: '-1' is not an integer >= 0"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.main(["--input_path", "in", "--output_path", "out", argument])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.partition(": ")[2] == f"error: {message} (--help lists the flags)\n"
    assert not Path("out").exists()


def test_progress_bar_and_summary(folder: Path) -> None:
    command = [sys.executable, SCRIPT, "--input_path", write_jsonl([*numbered(5), "broken"]), "--output_path", "out"]
    run = subprocess.run([*command, "--num_workers", "1"], capture_output=True, text=True, check=True)
    assert "Packing: 100%" in run.stderr
    assert "6/6" in run.stderr
    assert "5 records in 1 parts" in run.stdout
    assert run.stdout.endswith("File list: out/filelist/custom_dataset.filelist.list\n")


def test_neither_formats_nor_the_tool_import_paddle(folder: Path) -> None:
    code = f"import sys, runpy; runpy.run_path({str(SCRIPT)!r}); print([m for m in sys.modules if 'paddle' in m])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
