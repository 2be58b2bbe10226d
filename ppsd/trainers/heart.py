"""What the main thread is doing, for the watchdog."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager


class Phase(enum.Enum):
    """The value says it to the user."""

    DATA = "waiting for data"
    COMPUTE = "computing (forward, backward, exchange of gradients)"
    EXCHANGE = "waiting for the other processes"
    SAVING = "saving a checkpoint"
    PREVIEWS = "drawing previews"
    VALIDATION = "measuring the held-out loss"
    REPORT = "writing down the records of a step"


SLOW = frozenset((Phase.SAVING, Phase.PREVIEWS, Phase.VALIDATION, Phase.REPORT))


class Heart:
    """step: the one that is being made, from 1. beats: grows with everything that happens."""

    def __init__(self) -> None:
        self.step, self.beats, self.phase = 0, 0, Phase.DATA

    def beat(self, phase: Phase) -> None:
        self.phase = phase
        self.beats += 1

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        before = self.phase
        self.beat(phase)
        try:
            yield
        finally:
            self.beat(before)
