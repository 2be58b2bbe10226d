"""Which lanes a process reads, and their samples in order.

Group number s of the run, counted over all devices, comes from lane s % V; without buckets a group is one sample.
From group `start` on, device r of D takes the groups s = start + r + i D. V is divisible by D, so a device always draws
from the same V / D lanes in turn, and a worker process of the device owns some of these. Who reads a lane makes no
difference to what it yields.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ppsd.data.lane import Lane, LaneSettings, LaneState
from ppsd.data.source import RecordSource
from ppsd.data.tally import Tally
from ppsd.types import Sample, World

_OPENED_AT_ONCE = 8  # servers answer and gzip inflates while others wait: threads, even in one process


def device_lanes(num_lanes: int, world: World, start: int = 0) -> list[int]:
    """The lanes of one device in the order in which it draws from them."""
    return [(start + world.rank + index * world.size) % num_lanes for index in range(num_lanes // world.size)]


class SampleStream:
    """Groups of samples of some lanes in turn, without end; `states` are the lanes' positions."""

    def __init__(self, settings: LaneSettings, lanes: Sequence[int], states: Mapping[int, LaneState]) -> None:
        _allow_open_files(len(lanes) * sum(isinstance(source, RecordSource) for source in settings.sources))
        self._lanes = [Lane(settings, lane, states[lane]) for lane in lanes]

    def __iter__(self) -> Iterator[tuple[list[Sample], Tally]]:
        pool = ThreadPoolExecutor(min(len(self._lanes), _OPENED_AT_ONCE))
        try:
            for lane, opened in zip(self._lanes, [pool.submit(lane.open) for lane in self._lanes]):
                opened.result()
                yield lane.draw()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        while True:
            for lane in self._lanes:
                yield lane.draw()


def _allow_open_files(count: int) -> None:
    """Make room for `count` parts open at once; raises ValueError when the system does not allow it."""
    needed = count + 256  # what else a training process has open
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(
            f"this process needs {needed} open files and may have {hard} (ulimit -Hn):"
            " use more --dataloader_num_workers or a lower --num_lanes"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
