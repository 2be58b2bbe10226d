"""The processes of one machine: watched, and ended together."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Optional

from paddle.distributed.launch.controllers.collective import CollectiveController
from paddle.distributed.launch.job import container

from ppsd.launch.children import Child
from ppsd.launch.peers import Peers

STOPPED = 75  # all processes saved and ended because a signal asked them to
PATIENCE_AFTER_SAVING = 60.0  # seconds from the first process that has ended to the last
PATIENCE_AFTER_FAILURE = 5.0  # in which the others may say what they miss
PATIENCE_AFTER_TWO_SIGNALS = 3.0
LAST_LINES, LAST_BYTES = 15, 2**16
# what gloo and NCCL say when the other end of a connection is gone
PEER_ENDED = ("gloo/transport", "Connection reset by peer", "Connection closed by peer", "remote process exited")


class Launcher(CollectiveController):
    """The processes of one machine."""

    def __init__(self, context: Any) -> None:
        self.signals: list[int] = []
        self.first: Optional[Any] = None  # the first process that ended with another code than 0
        self.deadline = float("inf")
        self.peers: Optional[Peers] = None
        self.lost: Optional[str] = None
        self.over = False
        self.enable(context)
        super().__init__(context)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup sets
            signal.signal(signal.SIGHUP, self.signal_handler)

    def signal_handler(self, number: int, frame: Optional[FrameType]) -> None:
        if number == signal.SIGHUP and self.signals:  # a shell repeats its terminal's, systemd's follows SIGTERM
            return
        self.signals.append(number)
        if self.over:
            return
        if not self.alive():  # still waiting for other machines
            os._exit(128 + number)
        self.ctx.logger.info(
            f"{signal.Signals(number).name}: the processes save and end; once more ends them at once"
            if len(self.signals) == 1
            else "ending at once"
        )
        for worker in self.alive():
            send(worker, number)
        if len(self.signals) > 1:
            self.deadline = time.monotonic() + PATIENCE_AFTER_TWO_SIGNALS

    def deploy_pod(self) -> None:
        container.ProcessContext = Child
        super().deploy_pod()

    def alive(self) -> list[Any]:
        return [worker for worker in self.pod.containers if worker._proc is not None and worker._proc.alive()]

    def watch(self) -> bool:
        if self.job.replicas > 1:
            self.peers = Peers(self.master.endpoint, self.job.id, self.pod.rank, self.job.replicas)
        while self.alive():
            self.pod.logs()
            self._notice()
            self._ask_peers()
            if time.monotonic() > self.deadline:
                for worker in self.alive():
                    send(worker, signal.SIGKILL, group=True)
            time.sleep(0.2)
        self.over = True
        self._notice()
        while self.pod.logs():
            pass
        return True

    def _notice(self) -> None:
        """Remember which process failed first, and for how long the others may go on without it."""
        failed = [worker for worker in self.pod.containers if worker.exit_code not in (None, 0)]
        if self.first is not None or not failed:
            return
        self.first = min(failed, key=lambda worker: worker.exit_code == STOPPED)  # a failure before a stop
        patience = PATIENCE_AFTER_SAVING if self.first.exit_code == STOPPED else PATIENCE_AFTER_FAILURE
        self.deadline = min(self.deadline, time.monotonic() + patience)

    def _ask_peers(self) -> None:
        if self.lost is None and self.peers is not None and self.peers.lost is not None:
            self.lost = self.peers.lost
            self.ctx.logger.error(f"{self.lost}; the processes of this machine end, too")
            self.deadline = min(self.deadline, time.monotonic() + PATIENCE_AFTER_FAILURE)

    def end(self) -> int:
        """Say how the processes ended, here and to the other machines. Returns the exit code."""
        code = self._how_it_ended()
        self.watcher.stop()
        if self.peers is not None:
            self.peers.end(code)
        self.master.stop()
        return code

    def _how_it_ended(self) -> int:
        """The exit code; of a process that a signal killed 128 + its number."""
        if self.first is None:
            return 0
        if self.lost is not None:
            return 1
        code = int(self.first.exit_code)
        if code == STOPPED or [-code] == self.signals:  # one that was still starting had nothing to save
            self.ctx.logger.info(f"stopped; the same command continues (exit code {STOPPED})")
            return STOPPED
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        rank = self.first.env.get("PADDLE_TRAINER_ID", self.first.rank)
        self.ctx.logger.error(f"the process of rank {rank} {how}; its log, {self.first.errfile}, ends:")
        lines = last_lines(Path(self.first.errfile))
        for line in lines:
            sys.stderr.write(f"    {line}\n")
        if any(sign in line for line in lines for sign in PEER_ENDED):
            self.ctx.logger.error("a process that it talked to has ended before it; the log of that one says why")
        return 128 - code if code < 0 else code


def send(worker: Any, number: int, group: bool = False) -> None:
    """To the process alone, so that its data workers live until it has saved; or to all of its group."""
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(worker._proc._proc.pid, number)


def last_lines(log: Path) -> list[str]:
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))  # logs of weeks are large
        return file.read().decode("utf-8", errors="replace").splitlines()[-LAST_LINES:]
