"""How fast the run is, and what it waits for."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional

import paddle

STARVED = 0.2  # share of the time spent waiting for data that is worth a warning
WINDOW = 30.0  # seconds that it is measured over


class Meter:
    """Times the waits for data of the batches that pass through `watch`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.waited, self.started = 0.0, clock()
        self._all_waited, self._window = 0.0, (0.0, self.started)  # and what both were when the window began
        self._warm = self._said = False

    def watch(self, loader: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(loader)
        while True:
            start = self.clock()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += self.clock() - start
            yield batch

    def read(self) -> dict[str, float]:
        """Since the last reading: the share of time spent waiting for data; and the peak memory in GB."""
        now = self.clock()
        share = self.waited / max(now - self.started, 1e-9)
        self._all_waited += self.waited
        self.waited, self.started = 0.0, now
        readings = {"data_wait_share": round(share, 4), "peak_memory_gb": round(peak_memory_gb(), 2)}
        if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
            readings["peak_gpu_memory_gb"] = round(paddle.device.cuda.max_memory_allocated() / 2**30, 2)
        return readings

    def advice(self, workers: int) -> Optional[str]:
        """What to do where the run waits much for its data, once; at readings, of windows of at least 30 s.

        The first window is left out: the stream fills its buffers then.
        """
        waited, seconds = self._all_waited - self._window[0], self.started - self._window[1]
        if seconds < WINDOW or self._said:
            return None
        self._window = (self._all_waited, self.started)
        warm, self._warm = self._warm, True
        if not warm or waited < STARVED * seconds:
            return None
        self._said = True
        return (
            f"{waited / seconds:.0%} of the last {seconds:.0f} s were spent waiting for data: give more "
            f"--dataloader_num_workers (now {workers}), or cache the latents (tools/cache_latents.py)"
        )


def peak_memory_gb() -> float:
    """Of this process, as the kernel counts it (ru_maxrss is in kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
