from __future__ import annotations

import itertools
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from ppsd.data.jobs import WorkerDied, run_jobs


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_are_in_the_order_of_the_jobs(num_workers: int) -> None:
    assert list(run_jobs(abs, range(-20, 0), num_workers)) == list(range(20, 0, -1))


def test_jobs_may_be_endless() -> None:
    jobs = itertools.count()
    results = run_jobs(abs, jobs, 2)
    assert list(itertools.islice(results, 10)) == list(range(10))
    results.close()
    assert next(jobs) <= 10 + 2 * 2


def test_error_of_a_job_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_jobs(int, ["1", "x", "3"], 1))


def test_worker_that_dies_is_an_error() -> None:
    with pytest.raises(WorkerDied, match="killed or crashed"):
        list(run_jobs(os._exit, [3], 1))


SCRIPT = """
import os, sys, threading
from ppsd.data.jobs import run_jobs

def block(path):
    with open(path, "w") as file:
        print("at work", file=file, flush=True)
        threading.Event().wait()

if __name__ == "__main__":
    list(run_jobs(block, sys.argv[1:], 1))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    os.mkfifo(tmp_path / "fifo")
    command = [sys.executable, tmp_path / "script.py", tmp_path / "fifo"]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    with open(tmp_path / "fifo") as worker:
        assert worker.readline() == "at work\n"
        parent.kill()
        parent.wait()
        assert select.select([worker], [], [], 20)[0], "the worker is still there"
        assert worker.read() == ""
