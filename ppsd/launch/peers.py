"""Whether the launchers of the other machines still run, so that none waits for ever for one that is gone."""

from __future__ import annotations

import json
import threading
import time
from http.client import HTTPException
from typing import Optional
from urllib import error, parse, request

INTERVAL = 2.0  # seconds between two signs of life
LIMIT = 25.0  # without one, a machine is lost
ENDED = "ended"
AFTER_A_GOOD_END = 60.0  # seconds: finished or saved, and so will this machine be
_GOOD_ENDS = (f"{ENDED} 0", f"{ENDED} 75")
_FAILURES = (OSError, HTTPException, ValueError)  # no answer, half of one, or none that is JSON
_open = request.build_opener(request.ProxyHandler({})).open


class Peers:
    """Each launcher counts up at the key-value server that paddle's first launcher has at --master, and reads the rest.

    `lost` says, once, which machine is gone; None until then.
    """

    def __init__(self, endpoint: str, job: str, rank: int, size: int) -> None:
        self.endpoint, self.rank, self.size = endpoint, rank, size
        self.prefix = f"/ppsd/{parse.quote(job, safe='')}/alive"
        self.lost: Optional[str] = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self, code: int) -> None:
        """Tell the others. The one that has the server stays until all have heard it, but not for long."""
        self._done.set()
        self._thread.join()
        deadline = time.monotonic() + 4 * INTERVAL
        try:
            self._put(f"{ENDED} {code}")
            while self.rank == 0 and time.monotonic() < deadline and self._running():
                time.sleep(0.2)
        except _FAILURES:
            return  # the first machine has ended before

    def _running(self) -> int:
        """Machines that have not ended."""
        return sum(not value.startswith(ENDED) for value in self._get().values())

    def _watch(self) -> None:
        """A turn counts for no more than three intervals, so that nobody is blamed where all of them were suspended."""
        now, last = 0.0, time.monotonic()
        seen = dict.fromkeys(range(self.size), ("", now))  # what each said last, and since when
        count = 0
        while not self._done.wait(INTERVAL) and self.lost is None:
            count += 1
            try:
                self._put(str(count))
                said = self._get()
            except _FAILURES:
                said = {}  # its server is gone, and with it the first machine, or the network
            passed = time.monotonic() - last
            now, last = now + min(passed, 3 * INTERVAL), last + passed
            for rank in range(self.size):
                value = said.get(rank, seen[rank][0])
                if value != seen[rank][0]:
                    seen[rank] = (value, now)
            self.lost = self._gone(seen, now)

    def _gone(self, seen: dict[int, tuple[str, float]], now: float) -> Optional[str]:
        for rank, (value, since) in seen.items():
            if rank == self.rank or now - since < _patience(value):
                continue
            if value.startswith(ENDED):
                return f"machine {rank} of 0 to {self.size - 1} has {value.replace(ENDED, 'ended with exit code')}"
            return f"machine {rank} of 0 to {self.size - 1} has given no sign of life for {LIMIT:.0f} s"
        return None

    def _put(self, value: str) -> None:
        url = f"http://{self.endpoint}{self.prefix}/{self.rank}"
        _open(request.Request(url, data=value.encode(), method="PUT"), timeout=INTERVAL).close()

    def _get(self) -> dict[int, str]:
        try:
            with _open(f"http://{self.endpoint}{self.prefix}", timeout=INTERVAL) as reply:
                return {int(key.rsplit("/", 1)[1]): value for key, value in json.load(reply).items()}
        except error.HTTPError:
            return {}  # it has no such keys yet


def _patience(value: str) -> float:
    """Seconds that a machine may have been at what it said last."""
    if value in _GOOD_ENDS:
        return AFTER_A_GOOD_END
    return 2 * INTERVAL if value.startswith(ENDED) else LIMIT
