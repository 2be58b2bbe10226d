"""When a process is killed: a seeded choice."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

KINDS = {
    "clock": "at a random time, also while starting; from outside",
    "step": "at the boundary of two steps",
    "forward": "in the middle of the UNet's forward pass",
    "backward": "in the backward pass, when the UNet's middle gets its gradient",
    "update": "before or after the optimizer's update of the weights",
    "data": "while a sample is made; with workers it is the worker that dies",
    "write": "before one of the file operations (open, fsync, rename, mkdir, remove) on the output folder",
    "bytes": "in the middle of writing a file of a checkpoint",
    "power": "as write, and the machine loses power: what was written and not fsynced is empty afterwards",
}


@dataclass(frozen=True)
class Moment:
    """`kind` of KINDS; the `count`-th time it is reached (clock: after `seconds`; bytes: in the `count`-th save after
    `size` bytes of a file) the process of `rank` gets `signal`, and once more after `again_s`. group: its data workers
    get it, too, as when a whole process group does."""

    kind: str
    count: int = 1
    seconds: float = 0.0
    size: int = 0
    rank: int = 0
    signal: int = signal.SIGKILL
    again_s: Optional[float] = None
    group: bool = False


@dataclass(frozen=True)
class Pace:
    """How far an attempt should get: optimizer steps, micro-batches a step, and samples a micro-batch; seconds that a
    start and a step take; file operations a save."""

    steps: int
    micro_batches: int
    samples: int
    start_s: float = 0.7
    step_s: float = 0.2
    save_operations: int = 40


def random_moment(rng: random.Random, kind: str, pace: Pace, ranks: int = 1) -> Moment:
    """A moment within about `pace.steps` steps of the start."""
    most = {
        "step": pace.steps,
        "forward": pace.steps * pace.micro_batches,
        "backward": pace.steps * pace.micro_batches,
        "update": 2 * pace.steps,
        "data": pace.steps * pace.micro_batches * pace.samples,
        "write": 3 * pace.save_operations,
        "power": 3 * pace.save_operations,
        "bytes": 2,
        "clock": 1,
    }[kind]
    return Moment(
        kind,
        count=rng.randint(1, most),
        seconds=rng.uniform(0, pace.start_s + pace.steps * pace.step_s) if kind == "clock" else 0.0,
        size=int(10 ** rng.uniform(2, 5.3)) if kind == "bytes" else 0,
        rank=0 if kind in ("write", "bytes", "power") else rng.randrange(ranks),  # the first one writes
    )


def random_moments(rng: random.Random, kinds: Sequence[str], pace: Pace, ranks: int) -> Iterator[Moment]:
    """Without end, of all the kinds in turn."""
    order = rng.sample(kinds, len(kinds))
    while True:
        for kind in order:
            yield random_moment(rng, kind, pace, ranks)
