from __future__ import annotations

import errno
import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from ppsd.formats import remote_cache, remote_settings
from ppsd.formats.filelist import read_filelist
from ppsd.formats.opening import open_input
from ppsd.formats.remote_cache import PartCache
from ppsd.formats.remote_settings import RemoteSettings, configure, remote_counts
from ppsd.formats.remote_sources import Facts
from tests.formats.bad_server import BadServer

DATA = random.Random(0).randbytes(1_000_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[BadServer]:
    monkeypatch.setattr(remote_settings, "_settings", RemoteSettings())
    monkeypatch.setattr(remote_settings, "_process", remote_settings._Process())
    configure(backoff_s=0.01, max_backoff_s=0.05, stall_s=0.6, retries=2, cache_dir=str(tmp_path / "cache"))
    server = BadServer()
    yield server
    server.close()


def read(url: str, seekable: bool = False) -> bytes:
    with open_input(url, seekable) as file:
        return file.read()


def kept(folder: Path) -> list[str]:
    """The names of all files in the cache but its lock."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock")


@pytest.mark.parametrize("seekable", [False, True])
def test_second_reading_asks_nobody(server: BadServer, seekable: bool) -> None:
    url = server.add("part", DATA)
    assert read(url, seekable) == DATA
    assert len(server.requests) == 1
    assert read(url, not seekable) == DATA
    with open_input(url, seekable=True) as file:
        file.seek(500_000)
        assert file.read(10) == DATA[500_000:500_010]
    assert len(server.requests) == 1
    counts = remote_counts()
    assert (counts["cached_parts"], counts["cache_hits"] - seekable) == (1, 2)


def test_copy_is_compared_with_the_server_after_a_while(server: BadServer, tmp_path: Path) -> None:
    url = server.add("part", DATA)
    read(url)
    configure(cache_check_s=0)
    bytes_before = remote_counts()["bytes"]
    assert read(url) == DATA
    assert (len(server.requests), remote_counts()["bytes"]) == (2, bytes_before)
    new = DATA[::-1]
    server.add("part", new)
    server.version = 2
    assert read(url) == new
    assert len(kept(tmp_path / "cache")) == 1
    configure(cache_check_s=60)
    assert read(url) == new
    assert len(server.requests) == 3


def test_copy_is_used_when_the_server_is_down_but_not_when_the_part_is_gone(
    server: BadServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.add("part", DATA)
    read(url)
    configure(cache_check_s=0)
    server.faults = ["503"] * 6
    assert read(url) == read(url) == DATA
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"the server cannot be asked, so the copy in --data_cache_dir is used: {url}: gave up after 3 attempts at byte"
        " 0: ConnectionError: the server answered 503 Service Unavailable"
    ]
    server.faults = ["404"]
    with pytest.raises(FileNotFoundError):
        read(url)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fault", ["truncate", "reset", "stall"])
def test_download_that_fails_for_good_leaves_nothing(
    server: BadServer, tmp_path: Path, fault: str, ranges: bool
) -> None:
    url = server.add("part", DATA)
    server.ranges, server.faults = ranges, [fault, "500", "500"]
    with pytest.raises(OSError, match="gave up after"):
        read(url)
    assert kept(tmp_path / "cache") == []
    server.faults = [fault]
    assert read(url) == DATA
    assert read(url) == DATA
    assert len(server.requests) == 5


def test_reader_that_stops_early_leaves_nothing_and_one_that_stops_at_the_end_the_part(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(read_ahead_mb=0.25)
    long, short = server.add("long", DATA * 20), server.add("short", DATA * 3)
    for url in (long, short):
        with open_input(url) as file:
            file.read(10)
    deadline = time.monotonic() + 10
    while any(name.endswith(".tmp") for name in kept(tmp_path / "cache")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [name.rpartition("-")[2] for name in kept(tmp_path / "cache")] == [f"{len(DATA) * 3}.part"]


def test_size_limit_holds_and_the_part_used_longest_ago_goes(server: BadServer, tmp_path: Path) -> None:
    configure(cache_gb=3.5e-3)
    urls = [server.add(f"part-{i}", DATA[i:] + DATA[:i]) for i in range(5)]
    cache = PartCache(str(tmp_path / "cache"), 3_500_000)

    def fetched(i: int) -> int:
        time.sleep(0.01)  # file times are a few milliseconds coarse
        before = len(server.requests)
        with open_input(urls[i]) as file:
            assert cache.size() <= 3_500_000
            assert file.read() == DATA[i:] + DATA[:i]
        assert cache.size() <= 3_500_000
        return len(server.requests) - before

    assert [fetched(i) for i in (0, 1, 2, 0)] == [1, 1, 1, 0]
    assert fetched(3) == 1  # in the place of 1
    assert [fetched(i) for i in (0, 2, 3)] == [0, 0, 0]
    assert [fetched(i) for i in (1, 4)] == [1, 1]  # in the places of 0 and 2
    assert [fetched(i) for i in (3, 1, 4, 0, 2)] == [0, 0, 0, 1, 1]


def test_part_larger_than_the_limit_is_not_kept(server: BadServer, tmp_path: Path) -> None:
    configure(cache_gb=0.9e-3)
    url = server.add("part", DATA)
    assert read(url) == read(url, seekable=True) == DATA
    assert kept(tmp_path / "cache") == []


def test_deleting_a_part_does_not_disturb_its_reader(server: BadServer) -> None:
    configure(cache_gb=1.5e-3)
    one, two = server.add("one", DATA), server.add("two", DATA[::-1])
    read(one)
    with open_input(one) as file:
        assert file.read(10) == DATA[:10]
        read(two)
        assert file.read() == DATA[10:]
    assert read(one) == DATA
    assert [path for path, *_ in server.requests] == ["/one", "/two", "/one"]


def test_copy_that_lost_its_end_is_replaced(server: BadServer, tmp_path: Path) -> None:
    url = server.add("part", DATA)
    read(url)
    (path,) = (tmp_path / "cache").rglob("*.part")
    os.truncate(path, 1000)
    assert read(url) == DATA
    assert path.stat().st_size == len(DATA)


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_full_disk_is_told_once_and_reading_goes_on(
    server: BadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write":
        monkeypatch.setattr(remote_cache.CacheWriter, "write", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    for i in range(3):
        assert read(server.add(f"part-{i}", DATA)) == DATA
    assert kept(tmp_path / "cache") == []
    assert remote_counts()["cache_failures"] == 3
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "parts are read without keeping them in --data_cache_dir: [Errno 28] No space left on device"
    ]


def test_folder_that_disappears_is_no_reason_to_stop(server: BadServer, tmp_path: Path) -> None:
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()
    assert read(server.add("part", DATA)) == DATA
    assert remote_counts()["cache_failures"] > 0


def test_processes_at_once(server: BadServer, tmp_path: Path) -> None:
    urls = [server.add(f"part-{i}", DATA[i:]) for i in range(3)] * 4
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        assert list(pool.map(read, urls)) == [DATA[i:] for i in range(3)] * 4
    sizes = {name.rpartition("-")[2] for name in kept(tmp_path / "cache")}
    assert sizes == {f"{len(DATA) - i}.part" for i in range(3)}
    asked = len(server.requests)
    assert [read(url) for url in urls[:3]] == [DATA[i:] for i in range(3)]
    assert len(server.requests) == asked


def test_what_a_killed_process_left_is_not_used_and_is_cleared_away(server: BadServer, tmp_path: Path) -> None:
    url = server.add("part", DATA)
    server.faults = ["stall"]
    configure(stall_s=20)
    process = get_context("fork").Process(target=read, args=(url,))
    process.start()
    deadline = time.monotonic() + 10
    while not kept(tmp_path / "cache"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (left,) = kept(tmp_path / "cache")
    cache = PartCache(str(tmp_path / "cache"), 10**9)
    cache.begin("http://other", Facts(10, "")).discard()
    assert kept(tmp_path / "cache") == [left]  # its maker is alive
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert left.endswith(".tmp")
    assert cache.find(url, 0) is None
    assert read(url) == DATA
    assert [name.endswith(".part") for name in kept(tmp_path / "cache")] == [True]
    assert read(url) == DATA
    assert len(server.requests) == 2


def test_one_of_several_readers_writes(server: BadServer, tmp_path: Path) -> None:
    url = server.add("part", DATA * 10)
    configure(read_ahead_mb=0.25)
    with open_input(url) as one, open_input(url) as two:
        assert len(kept(tmp_path / "cache")) == 1
        assert one.read() == two.read() == DATA * 10
    assert [name.endswith(".part") for name in kept(tmp_path / "cache")] == [True]


def test_lists_are_always_asked_for(server: BadServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        url = server.add("x.filelist", f"/{name}\n".encode())
        assert read_filelist(url) == [f"/{name}"]
    assert kept(tmp_path / "cache") == []
