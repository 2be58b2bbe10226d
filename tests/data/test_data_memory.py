"""Freed memory stays with the process, unless the user has a say in it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from ppsd.data.memory import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from ppsd.data.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [np.ones(3 * 2**20, np.uint8) for _ in range(6)]
    del kept
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[10:]))
"""

needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")


def faults(how: str) -> int:
    """Page faults of ten rounds in which six batches are made and freed."""
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name and "GLIBC" not in name}
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@needs_glibc
def test_memory_of_batches_is_used_again() -> None:
    assert faults("keep") < 100
    assert faults("default") > 10 * 6 * 3 * 2**20 / 4096 / 2


def test_what_the_user_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
