from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.loader import StreamLoader
from ppsd.formats import remote_settings
from ppsd.formats.remote_settings import RemoteSettings, configure
from tests.formats.bad_server import BadServer
from tests.images import write_parts
from tests.tiny import tiny_tokenizer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    monkeypatch.setattr(remote_settings, "_settings", RemoteSettings())
    configure(retries=16, backoff_s=0.01, max_backoff_s=0.05, stall_s=2)  # one part may meet all the faults
    server = BadServer()
    yield server
    server.close()


def batches(file_list: str, num_workers: int) -> list[np.ndarray]:
    config = StreamConfig(file_list, resolution=32, buffer_size=4)
    loader = StreamLoader(config, tiny_tokenizer(), batch_size=4, num_workers=num_workers, seed=3)
    try:
        found = [np.asarray(batch["pixels"]) for batch in islice(iter(loader), 24)]
        assert loader.tally.skipped == 0
        return found
    finally:
        loader.close()


@pytest.mark.parametrize(("num_workers", "cached"), [(0, False), (2, False), (2, True)])
def test_stream_over_a_bad_network_is_the_local_one(
    server: BadServer, tmp_path: Path, num_workers: int, cached: bool
) -> None:
    local = write_parts(tmp_path, [6] * 16)
    for path in (tmp_path / "set").iterdir():
        server.add(f"set/{path.name}", path.read_bytes())
    names = sorted(path.name for path in (tmp_path / "set").iterdir())
    server.add("lists/set.filelist", "".join(f"../set/{name}\n" for name in names).encode())
    if cached:
        configure(cache_dir=str(tmp_path / "cache"), cache_gb=1e-4)
    expected = batches(str(local), 0)
    server.faults = ["", *["503", "truncate", "", "reset", "stall", ""] * 4]
    found = batches(f"{server.url}/lists/set.filelist", num_workers)
    assert server.faults == []
    assert all(np.array_equal(one, other) for one, other in zip(expected, found))
    sizes = sum(path.stat().st_size for path in tmp_path.rglob("cache/*/*.part"))
    assert (10_000 < sizes <= 100_000) if cached else sizes == 0
