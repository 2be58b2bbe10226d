from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppsd.formats import remote_settings
from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import read_part
from ppsd.formats.opening import open_input
from ppsd.formats.remote_settings import RemoteSettings, configure, remote_counts
from tests.formats.bad_server import BadServer
from tests.images import jpeg_bytes, part_line, write_lines

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")
DATA = random.Random(0).randbytes(3_000_000)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """A client of the server that s3:// URLs lead to, with an empty bucket `data`."""
    lead_to(endpoint, monkeypatch, tmp_path)
    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    return client


def lead_to(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote_settings, "_settings", RemoteSettings())
    monkeypatch.setattr(remote_settings, "_process", remote_settings._Process())
    configure(backoff_s=0.01, max_backoff_s=0.05, stall_s=0.8, retries=2)
    values = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    values.update({"DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"})
    values.update({"CONFIG_FILE": str(tmp_path / "none"), "SHARED_CREDENTIALS_FILE": str(tmp_path / "none")})
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    # file systems are kept for the life of a process, and these tests change where they lead
    monkeypatch.setattr("ppsd.formats.remote_filesystems._filesystems", {})


def read(url: str) -> bytes:
    with open_input(url) as file:
        return file.read()


def test_bytes_and_places_are_those_of_the_bucket(s3: object) -> None:
    s3.put_object(Bucket="data", Key="parts/part 1.gz", Body=DATA)  # type: ignore[attr-defined]
    assert read("s3://data/parts/part 1.gz") == DATA
    with open_input("s3://data/parts/part 1.gz", seekable=True) as file:
        file.seek(2_999_990)
        assert (file.read(), file.seek(17), file.read(5)) == (DATA[-10:], 17, DATA[17:22])


def test_parquet_is_read_in_place(s3: object) -> None:
    table = pa.table({"caption": [f"c {i}" for i in range(1000)], "jpg": [DATA[i : i + 2000] for i in range(1000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=100, compression="none")
    s3.put_object(Bucket="data", Key="x.parquet", Body=sink.getvalue().to_pybytes())  # type: ignore[attr-defined]
    with open_input("s3://data/x.parquet", seekable=True) as file:
        assert pq.ParquetFile(file).read_row_group(7) == table.slice(700, 100)


def test_records_are_those_of_local_parts(s3: object, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p", [part_line(f"c {i}", jpeg_bytes(seed=i)) for i in range(20)], compress=True)
    s3.upload_file(str(path), "data", "set/p/part-1")  # type: ignore[attr-defined]
    s3.put_object(Bucket="data", Key="set/f/a.filelist", Body=b"../p/part-1\n")  # type: ignore[attr-defined]
    (source,) = read_file_list("s3://data/set/f/a.filelist")
    assert list(read_part(source.parts[0], 5)) == list(read_part(path, 5))


def test_every_process_has_connections_of_its_own(s3: object) -> None:
    s3.put_object(Bucket="data", Key="part", Body=DATA)  # type: ignore[attr-defined]
    assert read("s3://data/part") == DATA
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        assert set(pool.map(_sum, ["s3://data/part"] * 4)) == {sum(DATA)}
    assert read("s3://data/part") == DATA


def _sum(url: str) -> int:
    return sum(read(url))


def test_part_is_kept_in_its_newest_version(s3: object, tmp_path: Path) -> None:
    configure(cache_dir=str(tmp_path / "cache"), cache_check_s=0)
    for data in (DATA, DATA[::-1]):
        s3.put_object(Bucket="data", Key="part", Body=data)  # type: ignore[attr-defined]
        assert read("s3://data/part") == data
        received = remote_counts()["bytes"]
        assert read("s3://data/part") == data
        assert remote_counts()["bytes"] == received
    assert [path.stat().st_size for path in (tmp_path / "cache").rglob("*.part")] == [len(DATA)]


def test_what_is_not_there_or_may_not_be_read_is_told_at_once(s3: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("s3://data/none", "s3://nobucket/none"):
        with pytest.raises(FileNotFoundError, match=rf"^{url}: not found$"):
            open_input(url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("ppsd.formats.remote_filesystems._filesystems", {})
    with pytest.raises(PermissionError, match=r"^s3://data/none: no credentials: .*AWS_\*, FSSPEC_\*"):
        open_input("s3://data/none")
    assert "retries" not in remote_counts()


def test_bos_is_s3_at_its_own_endpoint(s3: object, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="data", Key="part", Body=DATA)  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setitem(fsspec.config.conf, "bos", {"endpoint_url": endpoint, "key": "bos", "secret": "word"})
    assert read("bos://data/part") == DATA
    with pytest.raises(OSError, match=r"^s3://data/part: gave up after 3 attempts"):
        open_input("s3://data/part")


@pytest.mark.parametrize("faults", [["", "503"], ["500", "", "truncate"], ["", "reset"], ["", "stall", "", "503"]])
def test_failures_that_pass_are_retried_once_each(
    faults: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = BadServer()
    try:
        lead_to(server.url, monkeypatch, tmp_path)
        configure(read_ahead_mb=1)
        server.add("data/part", DATA)
        server.faults = list(faults)
        assert read("s3://data/part") == DATA
        assert remote_counts()["retries"] == sum(map(bool, faults))
        assert remote_counts()["bytes"] == len(DATA)
        server.requests.clear()
        server.faults = ["503"] * 100
        with pytest.raises(OSError, match=r"^s3://data/part: gave up after 3 attempts at byte 0"):
            read("s3://data/part")
        assert len(server.requests) == 3
    finally:
        server.close()
