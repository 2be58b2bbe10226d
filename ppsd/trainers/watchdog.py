"""A thread that ends the process when its main thread makes no progress: never a silent hang."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import sys
import threading
import traceback
from typing import Callable, Optional

from ppsd.trainers.exit_codes import HANG
from ppsd.trainers.heart import SLOW, Heart, Phase
from ppsd.trainers.status_board import Status, StatusBoard

logger = logging.getLogger(__name__)

PATIENCE = 3600.0  # seconds for what may take long: the first step (compilation), saving, previews
_GRACE = 60.0  # after the limit, when even this thread cannot run


class Watchdog:
    """data_timeout, step_timeout: seconds without progress, waiting for data or otherwise; 0: no limit.

    source: says in words where the data that is waited for comes from. silence: seconds without a sign of life of a
    process that this one waits for.
    """

    def __init__(
        self,
        heart: Heart,
        board: StatusBoard,
        data_timeout: float,
        step_timeout: float,
        source: Callable[[], str],
        silence: float = 60.0,
    ) -> None:
        self._silence, self._look = silence, silence / 2
        self._seen: Optional[list[Status]] = None
        self._heart, self._board, self._source = heart, board, source
        self._limits = {Phase.DATA: data_timeout, Phase.COMPUTE: step_timeout, Phase.EXCHANGE: step_timeout}
        self._slow = max(PATIENCE, step_timeout) if step_timeout else 0.0
        self._first = 0
        self._closed = threading.Event()
        self._main = threading.main_thread().ident

    def start(self) -> None:
        limits = [limit for limit in self._limits.values() if limit]
        if limits:
            self._first, self._main = self._heart.step, threading.get_ident()
            thread = threading.Thread(target=self._watch, args=(min(1.0, *limits) / 4,), name="ppsd-watchdog")
            thread.daemon = True
            thread.start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self, interval: float) -> None:
        """Time is counted in intervals, so that a process that was stopped as a whole (SIGSTOP) is not blamed."""
        beats, quiet = -1, 0.0
        while not self._closed.wait(interval):
            if self._heart.beats != beats:
                beats, quiet, self._look = self._heart.beats, 0.0, self._silence / 2
                self._arm_last_resort()
                continue
            quiet += interval
            limit = self._limit()
            lost = self._waits_for_a_lost_one(quiet)
            if not lost and (not limit or quiet < limit):
                continue
            if not lost and self._waits_for_a_busy_one() and quiet < limit + self._slow:
                continue
            if self._heart.beats == beats and not self._closed.is_set():
                self._end(quiet)
                break
        faulthandler.cancel_dump_traceback_later()

    def _limit(self) -> float:
        phase = self._heart.phase
        if phase in SLOW or (phase is not Phase.DATA and self._heart.step <= self._first + 1):
            return self._slow
        return self._limits[phase]

    def _arm_last_resort(self) -> None:
        """A thread of C code ends the process, with code 1, where the main thread never lets Python run another."""
        limit = self._limit()
        if limit and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(limit + self._slow + _GRACE, exit=True, file=sys.__stderr__)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _waits_for_a_lost_one(self, quiet: float) -> bool:
        """Whether some process gave no sign of life from one look to the next, half of `silence` later."""
        if self._board.size == 1 or self._heart.phase not in (Phase.COMPUTE, Phase.EXCHANGE) or quiet < self._look:
            return False
        first, self._look = self._look == self._silence / 2, quiet + self._silence / 2
        before, self._seen = self._seen, self._board.ask()
        if first or not self._limits[Phase.EXCHANGE]:
            return False
        return before is None or self._seen is None or bool(self._board.unchanged(before, self._seen))

    def _waits_for_a_busy_one(self) -> bool:
        return self._heart.phase in (Phase.COMPUTE, Phase.EXCHANGE) and self._board.busy()

    def _end(self, quiet: float) -> None:
        logger.error("%s", self._verdict(quiet))
        logger.error("the main thread is here:\n%s", _stack(self._main))
        sys.stderr.flush()
        for child in multiprocessing.active_children():  # a data worker may wait for a disk for ever
            child.kill()
        os._exit(HANG)

    def _verdict(self, quiet: float) -> str:
        phase = self._heart.phase
        flag = "--data_timeout" if phase is Phase.DATA else "--step_timeout"
        parts = [
            f"error: rank {self._board.rank}, step {self._heart.step}: {quiet:.0f} s without progress, {phase.value}"
        ]
        if phase is Phase.DATA:
            parts.append(self._source())
        else:
            parts += [self._board.lost() if self._board.size > 1 else "", self._board.behind()]
        parts.append(f"{flag} is the limit. Ending with code {HANG}; the same command continues the newest checkpoint")
        return "; ".join(part for part in parts if part)


def _stack(thread: Optional[int]) -> str:
    frame = sys._current_frames().get(thread or 0)
    return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else "(it has ended)"
