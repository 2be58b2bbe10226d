from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.formats.latents import write_latents
from ppsd.types import LatentRecord
from tests.images import jpeg_bytes, part_line, write_lines, write_lists, write_parts

SCRIPT = Path(__file__).parents[2] / "tools" / "inspect_data.py"
_spec = importlib.util.spec_from_file_location("inspect_data", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(file_list: Path | str, **flags: Any) -> list[str]:
    argv = ["--file_list", str(file_list), "--disable_tqdm"]
    for name, value in {"resolution": 64, "num_workers": 0, **flags}.items():
        argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return argv


def inspect(file_list: Path | str, **flags: Any) -> int:
    code = tool.main(arguments(file_list, **flags))
    assert isinstance(code, int)
    return code


def test_whole_data_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_list = write_parts(folder, [20, 10], 90, 70)
    assert inspect(file_list) == 0
    out = capsys.readouterr().out
    assert "usable records" in out
    assert "30 (100 %)" in out
    assert out.endswith("Training can start.\nReport: inspection.html\n")
    page = (folder / "inspection.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 24
    left = {path.name for path in folder.iterdir()}
    assert left == {"set", "set.filelist", "set.filelist.list", "inspection.html"}, "the state is removed"


def test_workers_find_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_list = write_parts(folder, [5, 5, 5], 90, 70)

    def lines() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if "worker" not in line]

    assert inspect(file_list) == 0
    alone = lines()
    assert inspect(file_list, num_workers=2) == 0
    assert lines() == alone


def test_flags_of_the_stream_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [part_line("cat", jpeg_bytes(100, 70))[:-1] + b'\t{"score":%d}\n' % i for i in range(10)]
    file_list = write_lists(folder, {"a": [write_lines(folder / "part-1", lines)]})
    assert inspect(file_list, filter="score >= 4 and width > 10") == 0
    out = capsys.readouterr().out
    assert "left out by --filter" in out
    assert "4 (40.0 %)" in out
    assert "filter: score >= 4" in out
    assert inspect(file_list, resolution=72) == 1
    out = capsys.readouterr().out
    assert "10  too small" in out
    assert "Problem: a: not one usable record among 10 records of 1 parts" in out
    assert out.endswith("Training cannot start.\nReport: inspection.html\n")
    bucketed = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 32}
    assert inspect(file_list, **bucketed) == 0
    assert inspect(file_list, data_format="laion_aes") == 1


def test_sample(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_list = write_parts(folder, [64] * 6)
    assert inspect(file_list, sample=10) == 0
    out = capsys.readouterr().out
    assert "12 records of a sample of 3 of 6 parts" in out
    assert "for about 384 samples" in out


def test_clean_data_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [part_line("a", jpeg_bytes(seed=1)), part_line("b", b"no"), part_line("c", jpeg_bytes(seed=1))]
    file_list = write_lists(folder, {"a": [write_lines(folder / "part-1", lines, compress=True)]})
    assert inspect(file_list, fix="out", drop_duplicates=True, output_name="new") == 0
    assert capsys.readouterr().out.endswith(
        "1 records in 1 parts written, 1 copies left out\nFile list: out/filelist/new.filelist.list\n"
    )
    assert inspect("out/filelist/new.filelist.list") == 0
    assert "1 (100 %)" in capsys.readouterr().out
    assert inspect(file_list, fix="out", output_name="new") == 1
    assert "new.filelist.list is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"file_list": "none.filelist.list"}, "none.filelist.list: file list not found"),
        ({"filter": "width >"}, "--filter 'width >'"),
        ({"resolution": 63}, "--resolution 63 is not divisible by 8"),
        ({"tokenizer": "none"}, "--tokenizer none: there is no none/vocab.json"),
        (
            {"pretrained_model_name_or_path": "no"},
            "--pretrained_model_name_or_path: cannot load AutoTokenizer from 'no/tokenizer'",
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, Any], message: str
) -> None:
    write_parts(folder, [3])
    assert inspect(**{"file_list": "set.filelist.list", **flags}) == 1
    error = capsys.readouterr().err
    assert error.startswith("inspect_data.py: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "inspection.html").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--file_list"),
        (["--file_list", "x", "--resolutoin", "3"], "did you mean --resolution?"),
        (["--file_list", "x", "--sample", "5", "--full"], "not allowed with"),
        (["--file_list", "x", "--sample", "5", "--fix", "out"], "need the whole data"),
        (["--file_list", "x", "--drop_duplicates"], "is for --fix OUT"),
        (["--file_list", "x", "--sample", "0"], "'0' is not an integer >= 1"),
        (["--file_list", "x", "--tokenizer", "a", "--pretrained_model_name_or_path", "b"], "which tokenizer?"),
    ],
)
def test_wrong_command_lines(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.main(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_tokenizer_of_a_pipeline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import tiny_tokenizer

    tiny_tokenizer().save_pretrained(str(folder / "pipeline" / "tokenizer"))
    lines = [part_line(caption, jpeg_bytes()) for caption in ("a red cat", "red " * 20)]
    file_list = write_lists(folder, {"a": [write_lines(folder / "part-1", lines)]})
    assert inspect(file_list, pretrained_model_name_or_path="pipeline", model_max_length=16) == 0
    out = capsys.readouterr().out
    assert "captions cut at 16 tokens" in out
    assert "1 (50.0 %)" in out
    assert "<del>" in (folder / "inspection.html").read_text(encoding="utf-8")
    assert inspect(file_list, pretrained_model_name_or_path="pipeline", resolution=512) == 1
    assert "not counted: no usable record\n" in capsys.readouterr().out
    assert inspect(file_list, filter="widht > 5") == 1
    out = capsys.readouterr().out
    assert "not counted: no --tokenizer\n" in out
    assert "Warning: --filter: no record that was looked at has a column widht; the nearest name is width\n" in out


def test_tokenizer_of_a_pipeline_on_the_hub(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ppsd.models import bundle
    from tests.tiny import tiny_tokenizer

    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        return tiny_tokenizer()

    monkeypatch.setattr(bundle, "load_tokenizer", load)
    file_list = write_parts(folder, [3])
    assert inspect(file_list, pretrained_model_name_or_path="someone/some-model") == 0
    assert asked == ["someone/some-model"]
    assert "captions cut at 77 tokens" in capsys.readouterr().out


def test_default_state_of_another_inspection_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_list = write_parts(folder, [3, 2])
    state = folder / "inspection.html.state.jsonl"
    (folder / "out").write_text("no folder")
    assert inspect(file_list, fix="out/clean") == 1
    assert state.read_bytes().count(b"\n") == 3
    capsys.readouterr()
    assert inspect(file_list, center_crop=True, filter="width > 1") == 0
    out, error = capsys.readouterr()
    assert "5 (100 %)" in out
    assert error == (
        "inspect_data.py: warning: inspection.html.state.jsonl: left by another inspection"
        " (center_crop was 'False' and is 'True', filter was 'None' and is 'width > 1'); begun anew\n"
    )
    assert not state.exists()
    state.write_text("something of the user's\n")
    assert inspect(file_list) == 1
    assert "its first line is not one" in capsys.readouterr().err
    assert state.read_text() == "something of the user's\n"


def test_cached_latents_are_not_fixed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [(1, LatentRecord(np.zeros((8, 8, 8), np.float32), "a cat"))]
    write_latents(folder / "part-1.safetensors", records, {})
    lists = {"images": [folder / "part-0"], "latents": [folder / "gone.safetensors", folder / "part-1.safetensors"]}
    write_lines(folder / "part-0", [part_line("a", jpeg_bytes())])
    assert inspect(write_lists(folder, lists), fix="out") == 1
    assert "part-1.safetensors: holds latents, which --fix cannot write" in capsys.readouterr().err
    assert not (folder / "inspection.html.state.jsonl").exists(), "nothing was inspected"
    assert not (folder / "out").exists()


KILLED = """
import os, runpy, signal, sys
from ppsd.data.inspection.journal import Journal

added = []
add = Journal.add

def add_or_die(journal, result):
    if len(added) == 3:
        journal._file.write(b'{"source": 0, "pa')
        journal._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    added.append(result)
    add(journal, result)

Journal.add = add_or_die
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("state", [{}, {"state": "results.jsonl"}])
def test_killed_while_it_writes_it_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], state: dict[str, str]
) -> None:
    file_list = write_parts(folder, [2] * 8)
    path = folder / state.get("state", "inspection.html.state.jsonl")
    argv = arguments(file_list, **state)
    script = f"import sys\nsys.argv = {[str(SCRIPT), *argv]!r}\n{KILLED}"
    assert subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE).returncode == -signal.SIGKILL
    done = path.read_bytes()
    assert done.count(b"\n") == 1 + 3
    if state:
        assert inspect(file_list, resolution=72, **state) == 1
        error = capsys.readouterr().err
        assert "results.jsonl: not the state of this inspection: resolution was '64' and is '72'; remove" in error
        assert path.read_bytes() == done[: done.rfind(b"\n") + 1]
    write_lines(folder / "set" / "part-000002", [b"this part has changed\n"])
    assert tool.main(argv) == 0
    assert "14 (93.3 %)" in capsys.readouterr().out
    assert path.exists() == bool(state)
    if state:
        whole = path.read_bytes()
        assert whole.startswith(done[: done.rfind(b"\n") + 1])
        assert whole.count(b"\n") == 1 + 3 + 6, "only what is new or has changed is read"
