"""Signals that a launcher, a scheduler or a terminal sends to all processes of a run leave the data workers alone."""

from __future__ import annotations

import itertools
import signal
import subprocess

import pytest

from ppsd.data.workers import WorkerPool


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_workers_survive_a_signal_that_is_not_from_their_parent(name: str) -> None:
    pool = WorkerPool([itertools.count], prefetch=1)
    process = pool._processes[0]
    assert pool.take(0) == 0, "it has started"
    subprocess.run(["sh", "-c", f"kill -{name} {process.pid}"], check=True)
    assert [pool.take(0) for _ in range(50)] == list(range(1, 51))
    pool.close()


def test_workers_end_when_their_parent_says_so() -> None:
    pool = WorkerPool([itertools.count], prefetch=1)
    process = pool._processes[0]
    assert pool.take(0) == 0
    process.terminate()
    process.join(timeout=10)
    assert process.exitcode == 128 + signal.SIGTERM
    pool.close()
