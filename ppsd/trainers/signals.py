"""SIGTERM, Ctrl-C and a closed terminal ask the run to stop after the step it is in; once more ends it at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any, Optional

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_END = b"\0"  # no signal's number
# seconds: paddle's launcher sends SIGTERM three times, 0.2 s apart; a shell repeats the SIGHUP of its terminal
SAME_REQUEST = 2.0


class StopSignals:
    """`requested`: the first signal since `install`, or None.

    The second one is seen by a thread of its own: the main thread may be waiting for a device or another process, where
    Python runs no handler.
    """

    def __init__(self) -> None:
        self.requested: Optional[int] = None
        self._before: dict[int, Any] = {}
        self._pipe: Optional[tuple[socket.socket, socket.socket]] = None
        self._wakeup, self._noted = -1, 0.0

    def install(self) -> None:
        """Idempotent. Without effect outside of the main thread, which is the only one that Python lets do it."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._pipe = socket.socketpair()
        for end in self._pipe:
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1].fileno(), warn_on_full_buffer=False)
        heeded = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}  # nohup ignores SIGHUP
        for number in heeded:
            signal.siginterrupt(number, False)  # paddle's store takes an interrupted call for a lost connection
        self._pipe[0].setblocking(True)
        threading.Thread(target=_watch, args=(self._pipe[0],), name="ppsd-signals", daemon=True).start()

    def restore(self) -> None:
        """The handlers that were there before `install`, once the last copy of a request has come."""
        if self.requested not in (None, signal.SIGINT):
            time.sleep(max(0.0, self._noted + SAME_REQUEST / 2 - time.monotonic()))
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._pipe[1].send(_END)
            self._pipe[1].close()
            self._pipe = None

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if self.requested is None:
            self.requested, self._noted = number, time.monotonic()


def _watch(numbers: socket.socket) -> None:
    """End the process at the second request. The interpreter writes the number of each signal as one byte."""
    first: Optional[float] = None
    with numbers:
        while received := numbers.recv(64):
            if _END in received:
                return
            for number in received:
                now = time.monotonic()
                if number not in SIGNALS:
                    continue
                if first is None:
                    first = now
                elif number == signal.SIGINT or now - first > SAME_REQUEST:
                    for child in multiprocessing.active_children():  # a data worker may wait for a disk for ever
                        child.kill()
                    os._exit(128 + number)
