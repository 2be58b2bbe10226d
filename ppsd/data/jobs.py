"""A function over many jobs in worker processes, in order, with a bounded number of jobs under way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import connection
from typing import Any, Callable, TypeVar

from ppsd.formats.remote_settings import configure, remote_settings

J = TypeVar("J")
R = TypeVar("R")


class WorkerDied(Exception):
    """A worker process ended without giving its result."""


def run_jobs(function: Callable[[J], R], jobs: Iterable[J], num_workers: int) -> Iterator[R]:
    """The results in the order of the jobs; 0 workers: in this process. `function` and jobs must pickle.

    At most two jobs a worker are under way, so `jobs` may be endless. What `function` raises is raised here. Raises
    WorkerDied when a worker is killed or crashes; workers end when this process does, even if it is killed.
    """
    if num_workers == 0:
        yield from map(function, jobs)
        return
    # Not forked: a fork of a process with threads (a progress bar has one) may hang.
    context = multiprocessing.get_context("spawn")
    settings = asdict(remote_settings())
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker, initargs=(settings,))
    pending: deque[Future[R]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(function, job))
            if len(pending) == 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerDied("a worker process was killed or crashed (out of memory?); try fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(settings: dict[str, Any]) -> None:
    """Leave Ctrl-C to the parent, and end with it; read parts at URLs as it does."""
    configure(**settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
