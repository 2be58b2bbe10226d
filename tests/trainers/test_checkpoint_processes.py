"""Two processes: a save that fails in one is known to both, and sharded state goes to one process and back."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from ppsd.models.saving import read_weights
from ppsd.trainers.checkpoint import find_checkpoints
from tests.trainers.conftest import Run, losses, weights
from tests.trainers.test_launch import SCRIPT, launch

# The disk is full when the optimizer of checkpoint-2 has been read in part.
FULL = """
import errno, os, sys
from ppsd.trainers import optimizer_state, pretrain

write = optimizer_state.write_safetensors

def full(path, specs, read, metadata=None):
    if "checkpoint-2" in str(path):
        read(optimizer_state.write_order(specs)[0])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return write(path, specs, read, metadata)

optimizer_state.write_safetensors = full
pretrain.main(sys.argv[1:])
"""
COMMON = {"lr_scheduler_type": "constant", "save_steps": 1}


@pytest.fixture(scope="module")
def whole(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """One process, never stopped: its folder and losses."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, losses(tiny_run.train(folder, **COMMON))


@pytest.fixture(scope="module")
def sharded(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sharded steps of two processes; the save at the second failed, and the run went on."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "full.py").write_text(FULL)
    flags = {"per_device_train_batch_size": 2, "max_steps": 3, "sharding": "stage1", "on_save_error": "continue"}
    launch(folder / "full.py", tiny_run.flags(folder / "out", **COMMON, **flags), folder)
    return folder


def test_training_goes_on_in_all_processes(sharded: Path) -> None:
    assert [path.name for path in find_checkpoints(sharded / "out")] == ["checkpoint-1", "checkpoint-3"]
    for rank in range(2):
        log = (sharded / "log" / f"workerlog.{rank}").read_text()
        assert "cannot save checkpoint-2" in log
        assert "training goes on" in log


def test_sharded_state_is_one_file_like_any_other(sharded: Path, whole: tuple[Path, list[float]]) -> None:
    """The parts of both processes, by the weights' names."""
    found = read_weights(sharded / "out" / "checkpoint-3" / "optimizer.safetensors")
    wanted = read_weights(whole[0] / "checkpoint-3" / "optimizer.safetensors")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_sharded_run_goes_on_in_one_process(
    sharded: Path, tiny_run: Run, tmp_path: Path, whole: tuple[Path, list[float]]
) -> None:
    again = tiny_run.train(tmp_path, resume_from_checkpoint=sharded / "out" / "checkpoint-3", **COMMON)
    np.testing.assert_allclose(losses(again), whole[1], rtol=1e-5)


def test_a_run_of_one_process_goes_on_sharded(tiny_run: Run, tmp_path: Path, whole: tuple[Path, list[float]]) -> None:
    flags = {"per_device_train_batch_size": 2, "sharding": "stage1"}
    start = {"resume_from_checkpoint": whole[0] / "checkpoint-3"}
    launch(SCRIPT, tiny_run.flags(tmp_path / "out", **COMMON, **flags, **start), tmp_path)
    one, two = weights(whole[0]), weights(tmp_path / "out")
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-6, rtol=1e-4, err_msg=name)


def test_a_save_that_fails_stops_all_processes(tiny_run: Run, tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(FULL)
    flags = tiny_run.flags(tmp_path / "out", per_device_train_batch_size=2, **COMMON)
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"error: cannot save checkpoint-2 in .*: No space left on device"):
        launch(tmp_path / "full.py", flags, tmp_path)
    assert time.monotonic() - start < 120
    for rank in range(2):
        assert "error: cannot save checkpoint-2" in (tmp_path / "log" / f"workerlog.{rank}").read_text()
    assert [path.name for path in find_checkpoints(tmp_path / "out")] == ["checkpoint-1"]
