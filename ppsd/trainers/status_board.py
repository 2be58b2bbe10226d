"""Where each process of a run is, for the others to see when one of them hangs or has ended.

Each writes it to the store that the processes met at, over a connection of its own, from a thread: the main thread may
be the one that hangs. The store is kept by the first process.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Optional

from ppsd.trainers.heart import SLOW, Heart, Phase

_KEY = "ppsd/status/{}"
_ANSWER = 10  # seconds that the store has to answer in

Status = tuple[int, int, str]  # count of writings, step, phase


class StatusBoard:
    """That of process `rank` of `size`. Without others it does nothing."""

    def __init__(self, rank: int, size: int, heart: Heart) -> None:
        self.rank, self.size, self._heart = rank, size, heart
        self.interval = max(0.5, size / 100)  # seconds; many processes must not keep the store busy
        self._store: Any = None
        self._one_at_a_time = threading.Lock()
        self._turns = 0
        self._closed = threading.Event()

    def start(self) -> None:
        """Connect, while all processes are still known to be there. Raises what the store raises."""
        if self.size > 1:
            self._store = _connect(self.size)
            self._write()
            threading.Thread(target=self._keep_writing, name="ppsd-status", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def ask(self) -> Optional[list[Status]]:
        """What each process has written, by rank; None where the store does not answer."""
        answer: list[Status] = []
        if self._store is None:
            return None
        asking = threading.Thread(target=self._read, args=(answer,), daemon=True)
        asking.start()
        asking.join(_ANSWER)
        return answer if len(answer) == self.size else None

    def lost(self) -> str:
        """Which processes give no sign of life, in words; empty when all do. Takes a few seconds."""
        before = self.ask()
        self._closed.wait(3 * self.interval)
        after = None if before is None else self.ask()
        if before is None or after is None:
            return "rank 0, at which the processes meet, does not answer"
        silent = self.unchanged(before, after)
        words = [f"rank {rank} (last seen at step {after[rank][1]}, {after[rank][2]})" for rank in silent]
        return f"no sign of life of {', '.join(words)}" if words else ""

    def unchanged(self, before: list[Status], after: list[Status]) -> list[int]:
        """The other processes that wrote nothing between two answers."""
        return [rank for rank in range(self.size) if before[rank][0] == after[rank][0] and rank != self.rank]

    def behind(self) -> str:
        """Where the others are, in words; those in the lowest step first."""
        places: dict[tuple[int, str], list[int]] = {}
        for rank, (_, step, phase) in enumerate(self.ask() or []):
            if rank != self.rank:
                places.setdefault((step, phase), []).append(rank)
        words = [f"rank {_few(ranks)} is at step {step}, {phase}" for (step, phase), ranks in sorted(places.items())]
        return "; ".join(words[:3])

    def busy(self) -> bool:
        """Whether another process that is alive does something that may take long, so that this one waits for it."""
        slow = {phase.value for phase in (Phase.DATA, *SLOW)}
        return any(rank != self.rank and status[2] in slow for rank, status in enumerate(self.ask() or []))

    def _keep_writing(self) -> None:
        while not self._closed.wait(self.interval):
            try:
                self._write()
            except (RuntimeError, ValueError, OSError):  # the store has ended with the first process: `ask` tells
                return

    def _write(self) -> None:
        self._turns += 1
        status = (self._turns, self._heart.step, self._heart.phase.value)
        with self._one_at_a_time:
            self._store.set(_KEY.format(self.rank), json.dumps(status))

    def _read(self, answer: list[Status]) -> None:
        try:
            with self._one_at_a_time:
                answer += [tuple(json.loads(self._store.get(_KEY.format(rank)))) for rank in range(self.size)]
        except (RuntimeError, ValueError, OSError):  # the caller sees that there is no answer
            return


def _connect(size: int) -> Any:
    """A further connection to the store: the one that paddle holds belongs to the main thread."""
    from paddle.base import core

    address = os.environ.get("PADDLE_MASTER") or os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0]
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    host, port = address.rsplit(":", 1)
    return core.TCPStore(host, int(port), False, size, _ANSWER)


def _few(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:5])) + (" ..." if len(ranks) > 5 else "")
