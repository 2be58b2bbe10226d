"""The cache of several processes: each makes its share; runs that start at once or are killed do no harm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.formats.array_store import ArrayFolder, ArrayMemory
from ppsd.trainers import folder_cache_exchange
from tests.trainers.conftest import Run, weights
from tests.trainers.image_folders import DISK, FolderRun, files, write_folder
from tests.trainers.test_launch import SCRIPT, launch

ROOT = Path(__file__).parents[2]
SHORT = {"num_train_epochs": None, "max_steps": 2}
KILLED = """
import os, signal, sys
from ppsd.formats import array_store
from ppsd.trainers import pretrain

replace, count = os.replace, 0

def dying(source, target):
    global count
    if str(target).endswith(".safetensors") and "latents" in str(target):
        count += 1
        if count == 6:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

array_store.os.replace = dying
pretrain.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> FolderRun:
    path = tmp_path_factory.mktemp("folder")
    return FolderRun(tiny_run, write_folder(path / "images", [(72, 80), (80, 66), (64, 64)] * 4))


@pytest.fixture(scope="module")
def uncached(folder: FolderRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the images in one process."""
    output = tmp_path_factory.mktemp("uncached")
    folder.train(output, center_crop=True, random_flip=True, **SHORT)
    return output


def start(code: list[str], flags: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *code, *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def assert_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-5, err_msg=key)


def encoded(log: str) -> list[int]:
    """What the log says that its processes have encoded."""
    return [int(count) for count in re.findall(r"cached latents .*; (\d+) arrays of [\d.]+ MB encoded now", log)]


@pytest.mark.parametrize("flags", [DISK, {"cache_latents": True}])
def test_two_processes_encode_half_each(folder: FolderRun, tmp_path: Path, uncached: Path, flags: dict) -> None:
    both = {**flags, **SHORT, "random_flip": True, "cache_text_encoder_outputs": True, "per_device_train_batch_size": 2}
    launch(SCRIPT, folder.flags(tmp_path / "out", **both), tmp_path)
    logs = [(tmp_path / "log" / f"workerlog.{rank}").read_text() for rank in range(2)]
    assert [encoded(log) for log in logs] == [[12], [12]]
    assert_close(weights(tmp_path / "out"), weights(uncached))


def test_two_runs_start_at_once_and_one_is_killed(folder: FolderRun, tmp_path: Path, uncached: Path) -> None:
    shared = {**DISK, **SHORT, "random_flip": True, "latents_cache_dir": tmp_path / "cache", "vae_batch_size": 2}
    (tmp_path / "killed.py").write_text(KILLED)
    killed = start([str(tmp_path / "killed.py")], folder.flags(tmp_path / "killed", **shared))
    assert killed.communicate()[0] is not None
    assert killed.returncode == -signal.SIGKILL
    assert len(files(tmp_path)) == 5
    runs = [start([str(SCRIPT)], folder.flags(tmp_path / name, **shared)) for name in "ab"]
    logs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], logs[0][-2000:] + logs[1][-2000:]
    counts = [encoded(log)[0] for log in logs]
    assert max(counts) <= 24 - 4, "two whole images were there"
    assert sum(counts) >= 24 - 5
    assert len(files(tmp_path)) == 24
    for name in "ab":
        assert_close(weights(tmp_path / name), weights(uncached))


def test_a_folder_that_others_do_not_see_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_cache_exchange, "_NEWS_SECONDS", 0.0)
    store = ArrayFolder(tmp_path)
    store.write("aa", np.zeros([1], np.float32))
    folder_cache_exchange._await(store, ["aa"])
    with pytest.raises(ValueError, match=r"--latents_cache_dir: .*bb.safetensors, which another process has written"):
        folder_cache_exchange._await(store, ["aa", "bb"])


def test_arrays_are_handed_out_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes, played one after the other: what the first sends is what the others get."""
    monkeypatch.setattr(folder_cache_exchange, "_CHUNK_BYTES", 40)
    rng = np.random.default_rng(0)
    own = [{f"{rank}{i}": rng.random((2, 2 + i % 2), np.float32) for i in range(5)} for rank in range(3)]
    announced = [[(key, array.shape) for key, array in arrays.items()] for arrays in own]
    sent: dict[int, list[np.ndarray]] = {rank: [] for rank in range(3)}

    def play(me: int) -> ArrayMemory:
        memory, turns = ArrayMemory(), {rank: iter(list(sent[rank])) for rank in range(3)}
        memory.arrays.update(own[me])

        def broadcast(array: Any, shape: tuple, dtype: Any, source: int) -> np.ndarray:
            if source == me:
                sent[me].append(array)
                return array
            got = next(turns[source], np.zeros(shape, dtype))
            assert got.shape == shape
            return got

        monkeypatch.setattr(folder_cache_exchange, "meet", lambda: None)
        monkeypatch.setattr(folder_cache_exchange, "everyones", lambda mine: announced)
        monkeypatch.setattr(folder_cache_exchange, "broadcast", broadcast)
        monkeypatch.setattr(folder_cache_exchange.paddle.distributed, "get_rank", lambda: me)
        folder_cache_exchange._broadcast(memory, list(own[me]))
        return memory

    for rank in range(3):
        play(rank)
    assert len(sent[0]) == 4, "two messages for three arrays of 16 bytes, two for two of 24"
    got = play(1).arrays
    for arrays in own:
        for key, array in arrays.items():
            np.testing.assert_array_equal(got[key], array)
