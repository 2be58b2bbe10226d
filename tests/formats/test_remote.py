from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fsspec
import pytest

from ppsd.formats import remote_settings
from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import read_part
from ppsd.formats.opening import open_input
from ppsd.formats.remote_settings import RemoteSettings, configure, remote_counts
from ppsd.formats.urls import shown_url
from tests.formats.bad_server import BadServer
from tests.images import jpeg_bytes, part_line, write_lines

DATA = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    monkeypatch.setattr(remote_settings, "_settings", RemoteSettings())
    monkeypatch.setattr(remote_settings, "_process", remote_settings._Process())
    configure(backoff_s=0.01, max_backoff_s=0.05, stall_s=0.6)
    server = BadServer()
    yield server
    server.close()


def read(url: str) -> bytes:
    with open_input(url) as file:
        return file.read()


def test_bytes_are_those_of_the_server(server: BadServer) -> None:
    url = server.add("part 1.gz", DATA)
    with open_input(url) as file:
        assert file.peek(2)[:2] == DATA[:2]  # type: ignore[attr-defined]
        assert file.read(10) + file.read() + file.read() == DATA
    assert server.requests == [("/part 1.gz", 0, "")]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("faults", [["500", "503", "429"], ["reset"], ["truncate"] * 3, ["stall"], ["silent"]])
def test_failures_that_pass_are_retried_from_the_byte_that_was_reached(
    server: BadServer, faults: list[str], ranges: bool
) -> None:
    url = server.add("part", DATA)
    server.faults, server.ranges = list(faults), ranges
    assert read(url) == DATA
    assert [fault for *_, fault in server.requests] == [*faults, ""]
    assert remote_counts()["retries"] == len(faults)
    asked = [start for _, start, _ in server.requests]
    if "truncate" in faults and ranges:
        assert asked == sorted(asked)
        assert asked[1] > len(DATA) // 4
    if ranges:
        assert remote_counts()["bytes"] == len(DATA)


def test_failures_in_a_row_end_with_the_url_the_attempts_and_the_last_error(server: BadServer) -> None:
    configure(retries=3)
    url = server.add("part", DATA)
    server.faults = ["503"] * 9
    with pytest.raises(OSError, match=rf"^{url}: gave up after 4 attempts at byte 0: .*the server answered 503"):
        read(url)
    assert len(server.requests) == 4
    server.faults = ["truncate", *["500"] * 9]
    with pytest.raises(OSError, match=r"gave up after 4 attempts at byte [1-9][0-9]+: .*answered 500"):
        read(server.add("other", DATA))


def test_a_connection_that_brought_much_starts_the_count_of_failures_anew(server: BadServer) -> None:
    configure(retries=1)
    url = server.add("part", DATA * 2)
    server.faults = ["truncate", "truncate"]
    assert read(url) == DATA * 2


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        ("404", FileNotFoundError, "not found"),
        ("403", PermissionError, "the server answered 403 Forbidden"),
        ("401", PermissionError, "the server answered 401 Unauthorized"),
        ("400", OSError, "the server answered 400 Bad Request"),
    ],
)
def test_what_will_not_pass_is_not_retried(server: BadServer, status: str, kind: type, message: str) -> None:
    url = server.add("part", DATA)
    server.faults = [status]
    with pytest.raises(kind, match=rf"^{url}: {message}$"):
        open_input(url)
    assert len(server.requests) == 1
    assert "retries" not in remote_counts()


def test_file_that_changes_while_it_is_read_is_not_mixed(server: BadServer) -> None:
    url = server.add("part", DATA)
    server.faults = ["truncate"]
    with open_input(url) as file:
        file.read(1000)
        server.version = 2
        with pytest.raises(OSError, match=r"changed on the server while it was read"):
            file.read()


def test_nobody_is_there() -> None:
    configure(retries=1, backoff_s=0.01)
    try:
        with pytest.raises(OSError, match=r"^http://127.0.0.1:1/part: gave up after 2 attempts at byte 0: Client"):
            open_input("http://127.0.0.1:1/part")
    finally:
        remote_settings._settings = RemoteSettings()


def test_reading_ahead_is_bounded_and_an_idle_connection_is_given_up(server: BadServer) -> None:
    configure(read_ahead_mb=1, idle_s=0.1)
    url = server.add("part", DATA * 4)
    with open_input(url) as file:
        assert file.read(1) == DATA[:1]
        time.sleep(0.5)
        assert remote_counts()["bytes"] < 2**21
        assert file.read() == (DATA * 4)[1:]
    assert len(server.requests) == 2
    assert "retries" not in remote_counts()


def test_all_open_parts_together_read_ahead_within_one_limit(server: BadServer) -> None:
    configure(read_ahead_mb=4)
    urls = [server.add(f"part-{i}", DATA * 3) for i in range(12)]
    files = [open_input(url) for url in urls]
    for file in files:
        assert file.read(1) == DATA[:1]
    time.sleep(0.3)
    assert remote_counts()["bytes"] < (4 + 12 * 0.5 + 1) * 2**20  # a piece held, and one on its way, for each
    for file in files:
        with file:
            assert file.read() == (DATA * 3)[1:]


def test_closing_ends_the_thread_at_once(server: BadServer) -> None:
    configure(stall_s=20)
    server.faults = ["stall"]
    file = open_input(server.add("part", DATA))
    file.read(10)
    begin = time.monotonic()
    file.close()
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith("read http")]:
        thread.join(5)
        assert not thread.is_alive()
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("ranges", [True, False])
def test_seekable(server: BadServer, ranges: bool) -> None:
    server.ranges = ranges
    url = server.add("part", DATA)
    with open_input(url, seekable=True) as file:
        assert file.seek(-1000, os.SEEK_END) == len(DATA) - 1000
        assert file.read() == DATA[-1000:]
        server.faults = ["truncate"]
        file.seek(5)
        assert (file.read(2_000_000), file.tell()) == (DATA[5:2_000_005], 2_000_005)
        file.seek(len(DATA) + 5)
        assert file.read(1) == b""


def test_records_over_urls_are_those_of_local_parts(server: BadServer, tmp_path: Path) -> None:
    lines = [part_line(f"caption {i}", jpeg_bytes(seed=i)) for i in range(40)]
    expected = []
    for number, compress in enumerate([False, True]):
        path = write_lines(tmp_path / f"part-{number}", lines[number * 20 : number * 20 + 20], compress)
        server.add(f"set/parts/part-{number}", path.read_bytes())
        expected += list(read_part(path, 3, every=2, offset=1))
    server.add("set/lists/all.filelist", b"../parts/part-0\n../parts/part-1\n")
    server.add("set/all.filelist.list", b"lists/all.filelist\n")
    (source,) = read_file_list(f"{server.url}/set/all.filelist.list")
    server.faults = ["truncate", "503", "reset"]
    got = [line for part in source.parts for line in read_part(part, 3, every=2, offset=1)]
    assert got == expected
    assert len(got) == 18
    assert remote_counts()["retries"] == 3


def test_part_that_is_not_there_is_a_bad_record(server: BadServer) -> None:
    ((number, record),) = read_part(f"{server.url}/none")
    assert (number, record.reason, record.detail) == (1, "unreadable part", f"{server.url}/none: not found")


def test_every_process_has_connections_of_its_own(server: BadServer) -> None:
    url = server.add("part", DATA)
    assert read(url) == DATA
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        assert set(pool.map(_sum, [url] * 6)) == {sum(DATA)}
    assert read(url) == DATA


def _sum(url: str) -> int:
    return sum(read(url))


def test_other_protocols_and_what_is_missing_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe("/m/part", DATA)
    assert read("memory://m/part") == DATA
    with open_input("memory://m/part", seekable=True) as file:
        file.seek(2_500_000)
        assert file.read(7) == DATA[2_500_000:2_500_007]
    with pytest.raises(FileNotFoundError, match=r"^memory://m/none: not found$"):
        open_input("memory://m/none")
    with pytest.raises(OSError, match=r"^nosuch://m/none: Protocol not known: nosuch"):
        open_input("nosuch://m/none")
    with pytest.raises(OSError, match=r"^bos://b/k: no endpoint for bos://: set FSSPEC_BOS_ENDPOINT_URL"):
        open_input("bos://b/k")

    def not_installed(protocol: str) -> type:
        raise ImportError(f"Install s3fs to access {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", not_installed)
    with pytest.raises(OSError, match=r's3:// is not installed \(pip install "ppsd\[s3\]"\)'):
        open_input("s3://b/k")


def test_file_urls_are_local(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert read(f"file://{tmp_path}/x") == b"abc"


def test_secrets_in_urls_are_not_shown(server: BadServer, caplog: pytest.LogCaptureFixture) -> None:
    assert shown_url("https://me:word@host:8/a?X-Sig=secret") == "https://host:8/a?..."
    assert shown_url("/data/me@home/what?/part-1") == "/data/me@home/what?/part-1"
    server.faults = ["500", "403"]
    with caplog.at_level(logging.INFO), pytest.raises(PermissionError) as caught:
        open_input(f"{server.url}/part?sig=secret")
    assert "attempt 2 in" in caplog.text
    assert "secret" not in caplog.text + str(caught.value)


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--data_cache_gb 0 is not above 0"):
        configure(cache_gb=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^--data_cache_dir .*file/x: cannot be written: Not a directory"):
        configure(cache_dir=str(tmp_path / "file" / "x"))
    assert remote_settings.remote_settings() == RemoteSettings()
