"""A save that fails says so, leaves what is there alone, and stops the run or not, as --on_save_error says."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ppsd.models import saving
from ppsd.trainers import optimizer_state, save_errors
from ppsd.trainers.checkpoint import find_checkpoints
from ppsd.trainers.manifest import checksum_fault
from ppsd.trainers.save_errors import explain, require_room
from tests.trainers.conftest import Run, assert_same_weights, losses, weights


class FullDisk:
    """Stands in for the writer: `fails` says which files do not fit; half of such a one is written."""

    def __init__(self, fails: Any) -> None:
        self.fails = fails

    def __call__(self, path: Path, specs: Any, read: Any, metadata: Any = None) -> Any:
        digest = optimizer_state.__dict__["original"](path, specs, read, metadata)
        if self.fails(Path(path)):
            os.truncate(path, digest.nbytes // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return digest


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    disk = FullDisk(lambda path: False)
    monkeypatch.setitem(optimizer_state.__dict__, "original", optimizer_state.write_safetensors)
    for module in (optimizer_state, saving):
        monkeypatch.setattr(module, "write_safetensors", disk)
    return disk


def whole(run: Path) -> list[str]:
    found = find_checkpoints(run)
    assert all(checksum_fault(path) is None for path in found)
    return [path.name for path in found]


@pytest.mark.parametrize("file", ["optimizer.safetensors", "diffusion_paddle_model.safetensors"])
def test_a_disk_that_fills_stops_the_run_and_harms_nothing(
    tiny_run: Run, tmp_path: Path, full_disk: FullDisk, file: str
) -> None:
    full_disk.fails = lambda path: path.name == file and "checkpoint-4" in str(path)
    with pytest.raises(OSError, match="cannot save checkpoint-4") as raised:
        tiny_run.train(tmp_path, save_steps=2, save_total_limit=1)
    message = str(raised.value)
    assert f"in {tmp_path}: No space left on device: it takes " in message
    assert " MB, " in message
    assert "free on this disk. What was saved before is untouched: make room there" in message
    assert "--on_save_error continue" in message
    assert whole(tmp_path) == ["checkpoint-2"]
    assert not (tmp_path / ".saving").exists()
    full_disk.fails = lambda path: False
    assert len(losses(tiny_run.train(tmp_path, save_steps=2, save_total_limit=1))) == 6
    assert whole(tmp_path) == ["checkpoint-6"]


def test_a_run_can_go_on_without_a_checkpoint(
    tiny_run: Run, tmp_path: Path, full_disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    full_disk.fails = lambda path: "checkpoint-4" in str(path)
    with caplog.at_level("ERROR", logger="ppsd"):
        tiny_run.train(tmp_path / "a", save_steps=2, on_save_error="continue")
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [error[:24] for error in errors] == ["cannot save checkpoint-4"]
    assert "training goes on" in caplog.text
    assert whole(tmp_path / "a") == ["checkpoint-2", "checkpoint-6"]
    full_disk.fails = lambda path: False
    tiny_run.train(tmp_path / "b", save_steps=2)
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_an_export_that_fails_leaves_the_earlier_one(tiny_run: Run, tmp_path: Path, full_disk: FullDisk) -> None:
    tiny_run.train(tmp_path, max_steps=1)
    before = {part: weights(tmp_path, part) for part in ("unet", "vae", "text_encoder")}
    full_disk.fails = lambda path: ".saving/export" in str(path) and path.parent.name == "unet"
    with pytest.raises(OSError, match=rf"cannot save the pipeline in {tmp_path}: No space left"):
        tiny_run.train(tmp_path, max_steps=2)
    assert (tmp_path / "model_index.json").is_file()
    for part, kept in before.items():
        assert_same_weights(kept, weights(tmp_path, part))
    assert not (tmp_path / ".saving").exists()
    full_disk.fails = lambda path: False
    tiny_run.train(tmp_path, max_steps=2)  # nothing left to train: the export is made again
    assert_same_weights(weights(tmp_path), weights(tmp_path / "checkpoint-2"))


def test_room_is_asked_for_before_anything_is_written(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run.train(tmp_path, max_steps=1)
    written = sum(path.stat().st_size for path in (tmp_path / "checkpoint-1").rglob("*.safetensors"))
    free = SimpleNamespace(total=10**12, free=int(written * 0.8))
    monkeypatch.setattr(save_errors.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(OSError, match=r"cannot save checkpoint-2 .*it takes [\d.]+ MB, [\d.]+ MB are free"):
        tiny_run.train(tmp_path, max_steps=2)
    assert whole(tmp_path) == ["checkpoint-1"]


def test_a_disk_that_does_not_say_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_room(tmp_path, shutil.disk_usage(tmp_path).free // 2)
    with pytest.raises(OSError, match="No space left"):
        require_room(tmp_path, 10**18)
    monkeypatch.setattr(save_errors.shutil, "disk_usage", lambda folder: SimpleNamespace(total=0, free=0))
    require_room(tmp_path, 10**18)


def test_other_errors_name_the_file(tmp_path: Path) -> None:
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "out/.saving")
    text = explain(error, "checkpoint-7", Path("out"), 5 * 10**9)
    assert text.startswith("cannot save checkpoint-7 in out: Read-only file system (out/.saving). What was saved")
    quota = explain(OSError(errno.EDQUOT, "Disk quota exceeded"), "checkpoint-7", tmp_path, 5 * 10**9)
    assert "Disk quota exceeded: it takes 5 GB, " in quota


def test_the_flag_takes_two_words(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--on_save_error is never; it must be stop or continue"):
        tiny_run.train(tmp_path, on_save_error="never")
