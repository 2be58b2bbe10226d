"""How fast the run is, and what it waits for."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from typing import Any

import paddle


class Meter:
    """Times the waits for data of the batches that pass through `watch`."""

    def __init__(self) -> None:
        self.waited, self.started = 0.0, time.perf_counter()

    def watch(self, loader: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield batch

    def read(self) -> dict[str, float]:
        """Since the last reading: the share of time spent waiting for data; and the peak memory in GB."""
        now = time.perf_counter()
        share = self.waited / max(now - self.started, 1e-9)
        self.waited, self.started = 0.0, now
        readings = {"data_wait_share": round(share, 4), "peak_memory_gb": round(peak_memory_gb(), 2)}
        if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
            readings["peak_gpu_memory_gb"] = round(paddle.device.cuda.max_memory_allocated() / 2**30, 2)
        return readings


def peak_memory_gb() -> float:
    """Of this process, as the kernel counts it (ru_maxrss is in kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
