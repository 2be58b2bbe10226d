from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppsd.formats.atomic import atomic_write


def test_file_appears_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with atomic_write(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
        assert len(os.listdir(tmp_path)) == 2
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_permissions_are_those_of_a_plain_open(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "below"
    with pytest.raises(NotADirectoryError) as caught, atomic_write(target):
        pass
    assert caught.value.filename == str(target)


def test_errors_of_other_files_keep_their_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "file"):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")


FULL_DISK = """
import random, resource, signal, sys
from ppsd.formats.laion import write_part
from ppsd.types import Record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_part(sys.argv[1], [Record(random.Random(0).randbytes(50_000), "a")] * 1000, gzip=sys.argv[2] == "gzip")
except OSError as error:
    print(error.filename)
"""


@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_disk_that_fills_up_is_an_error_naming_the_file(tmp_path: Path, kind: str) -> None:
    target = str(tmp_path / "part")
    command = [sys.executable, "-c", FULL_DISK, target, kind]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == target
    assert os.listdir(tmp_path) == []
