"""Arrays by key: what is read is what was written, whoever writes at the same time, or an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ppsd.formats.array_store import ArrayFolder, ArrayMemory, pack_array, unpack_array

ROOT = Path(__file__).parents[2]
ARRAY = np.arange(8 * 3 * 5, dtype=np.float32).reshape(8, 3, 5)
KEY = "ab" + 30 * "0"

WRITER = """
import sys
import numpy as np
from ppsd.formats.array_store import ArrayFolder

store = ArrayFolder(sys.argv[1])
for turn in range(60):
    for key in range(4):
        store.write(f"{key:032d}", np.full([64, 1024], key, np.float32))
"""
KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from ppsd.formats.array_store import ArrayFolder

write_bytes = Path.write_bytes

def half(path, data):
    write_bytes(path, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = half
ArrayFolder(sys.argv[1]).write(sys.argv[2], np.ones([8, 4, 4], np.float32))
"""


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment)


@pytest.mark.parametrize("in_memory", [False, True])
def test_round_trip(tmp_path: Path, in_memory: bool) -> None:
    store = ArrayMemory() if in_memory else ArrayFolder(tmp_path / "new" / "folder")
    assert store.read(KEY) is None
    store.write(KEY, ARRAY[:, ::-1])
    found = store.read(KEY)
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ARRAY[:, ::-1])


def test_any_safetensors_library_reads_a_file(tmp_path: Path) -> None:
    store = ArrayFolder(tmp_path)
    store.write(KEY, ARRAY)
    assert store.path(KEY) == tmp_path / "ab" / f"{KEY}.safetensors"
    np.testing.assert_array_equal(load_file(store.path(KEY))["value"], ARRAY)
    assert store.path(KEY).stat().st_size - ARRAY.nbytes < 300


def test_damage_is_seen() -> None:
    """Wherever a byte differs, and wherever the file ends."""
    data = pack_array(KEY, ARRAY)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :]
        try:
            found = unpack_array(changed, KEY)
        except ValueError:
            continue
        np.testing.assert_array_equal(found, ARRAY)  # a blank of the header's padding, or the like
    for length in range(0, len(data), 7):
        with pytest.raises(ValueError, match="not a whole file"):
            unpack_array(data[:length], KEY)
    with pytest.raises(ValueError, match="that its name promises"):
        unpack_array(data, "cd" + 30 * "0")


def test_two_processes_write_what_a_third_reads(tmp_path: Path) -> None:
    writers = [start(WRITER, tmp_path) for _ in range(2)]
    store, read = ArrayFolder(tmp_path), 0
    while any(writer.poll() is None for writer in writers):
        for key in range(4):
            found = store.read(f"{key:032d}")
            if found is not None:
                read += 1
                assert (found == key).all()
        time.sleep(0.002)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert read > 10
    assert sorted(path.name for path in tmp_path.glob("*/*")) == [f"{key:032d}.safetensors" for key in range(4)]


def test_a_killed_writer_leaves_nothing_under_the_key(tmp_path: Path) -> None:
    assert start(KILLED, tmp_path, KEY).wait() == -signal.SIGKILL
    store = ArrayFolder(tmp_path)
    assert store.read(KEY) is None
    (left,) = (tmp_path / ".writing").iterdir()
    store.remove_abandoned()
    assert left.exists(), "it may still be written"
    os.utime(left, (time.time() - 90000,) * 2)
    store.remove_abandoned()
    assert not left.exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "ab").write_text("a file where a folder is needed")
    with pytest.raises(OSError, match=f"{KEY}|ab"):
        ArrayFolder(tmp_path).write(KEY, ARRAY)


def test_a_folder_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArrayFolder(tmp_path)
    store.write(KEY, ARRAY)
    left = tmp_path / ".writing" / "left"
    left.write_bytes(b"")
    os.utime(left, (0, 0))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    store.remove_abandoned()
    np.testing.assert_array_equal(store.read(KEY), ARRAY)
