"""Worker processes: a worker that fails is an error and never a wait, and none outlives its pool or its parent."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppsd.data.workers import WorkerPool


def numbers(first: int) -> Iterator[int]:
    return itertools.count(first)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_items_come_in_turn() -> None:
    pool = WorkerPool([partial(numbers, 0), partial(numbers, 100)], prefetch=2)
    taken = list(itertools.islice(pool.take_in_turn(3), 9))
    assert taken == [0, 100, 1, 2, 101, 3, 4, 102, 5]
    pool.close()


def _dies(how: str) -> Iterator[int]:
    yield 1
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "value":
        raise ValueError("set.filelist: nothing in it")
    if how == "error":
        raise KeyError("a bug")
    yield lambda: None  # type: ignore[misc]  # cannot be sent


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("exit", RuntimeError, "data worker 0 died: exit code 3"),
        ("kill", RuntimeError, "data worker 0 died: it was killed, which the system does when memory runs out"),
        ("value", ValueError, "^set.filelist: nothing in it$"),
        ("error", RuntimeError, "KeyError: 'a bug'"),
        ("unsendable", RuntimeError, "data worker 0 died: exit code 1"),
    ],
)
def test_a_worker_that_fails_is_an_error(how: str, error: type[Exception], message: str) -> None:
    pool = WorkerPool([partial(_dies, how)], prefetch=4)
    with pytest.raises(error, match=message):  # noqa: PT012  sudden death may take the first item along
        for _ in range(2):
            assert pool.take(0) == 1
    pool.close()


def test_a_worker_that_dies_in_the_middle_of_an_item_is_an_error() -> None:
    def half_sent() -> Iterator[np.ndarray]:
        yield np.zeros(50_000_000, np.uint8)

    pool = WorkerPool([half_sent], prefetch=1)
    assert pool._ends[0][0].poll(10)  # the pipe holds 64 KB of the item
    os.kill(pool._processes[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="it was killed"):
        pool.take(0)
    pool.close()


def test_closing_and_dropping_end_the_workers() -> None:
    for drop in (False, True):
        pool = WorkerPool([partial(numbers, 0)] * 3, prefetch=2)
        pids = [process.pid for process in pool._processes]
        assert pool.take(2) == 0
        assert all(map(is_running, pids))
        if not drop:
            pool.close()
            pool.close()
        del pool
        gc.collect()
        assert not any(map(is_running, pids))


PARENT = """
import itertools, os, sys
from ppsd.data.workers import WorkerPool
pool = WorkerPool([itertools.count] * 2, prefetch=2)
pool.take(0), pool.take(1)
print(*(process.pid for process in pool._processes), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "raises":
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("end", ["returns", "raises", "killed"])
def test_workers_end_with_their_parent(end: str) -> None:
    """The parent's output is a pipe that its workers inherit: it ends only when the last of them has ended."""
    done = subprocess.run([sys.executable, "-c", PARENT, end], capture_output=True, text=True, timeout=30)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10  # a process that has closed its pipes may still be on its way out
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(map(is_running, pids))
    assert done.returncode == {"returns": 0, "raises": -signal.SIGINT, "killed": -signal.SIGKILL}[end]


def test_forking_is_safe_after_paddle_has_computed() -> None:
    """Forward and backward start paddle's threads; a fork has only the thread that forked."""
    for _ in range(5):
        weight = paddle.randn([256, 256])
        weight.stop_gradient = False
        paddle.matmul(weight, weight).sum().backward()
        pool = WorkerPool([partial(numbers, 0)] * 2, prefetch=2)
        assert list(itertools.islice(pool.take_in_turn(2), 40)) == [i // 2 for i in range(40)]
        paddle.matmul(weight, weight).sum().backward()
        pool.close()
