"""The hooks that carry a moment out inside of the process."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional

from ppsd.data.sample import SampleMaker
from tests.chaos.moments import Moment
from tests.chaos.power import file_state

# events of sys.addaudithook, and which of their arguments is the open folder that the path starts from
AUDITED = {"open": None, "shutil.rmtree": None, "os.rename": 2, "os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}


class Killer:
    """Sends this process the signal when the moment is reached. None: never."""

    def __init__(self, moment: Optional[Moment]) -> None:
        self.moment, self.left = moment, moment.count if moment else 0

    def reached(self, kind: str) -> None:
        if self.moment is None or kind != self.moment.kind:
            return
        self.left -= 1
        if self.left == 0:
            strike(self.moment)

    def save_begins(self) -> None:
        """For bytes: the kernel ends the process in the write that makes a file larger than `size`."""
        if self.moment is None or self.moment.kind != "bytes":
            return
        self.left -= 1
        if self.left == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.moment.size, resource.RLIM_INFINITY))

    def watch_samples(self) -> None:
        make = SampleMaker.__call__

        def making(*args: Any, **kwargs: Any) -> Any:
            self.reached("data")
            return make(*args, **kwargs)

        SampleMaker.__call__ = making  # type: ignore[method-assign]

    def watch_files(self, folder: Path, synced: Path) -> None:
        """File operations on `folder` are moments; the state of each file that was fsynced is noted in `synced`."""
        within = f"{folder}{os.sep}"
        log = os.open(synced, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def touched(path: str) -> None:
            if path.startswith("/proc/self/fd/"):
                path = os.path.join(os.readlink(path[: path.index("/", 14)]), path[path.index("/", 14) + 1 :])
            if path.startswith(within):
                self.reached("write")
                self.reached("power")

        def audit(event: str, args: tuple) -> None:
            if event not in AUDITED or not isinstance(args[0], (str, os.PathLike)):
                return
            if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            parent = args[AUDITED[event]] if AUDITED[event] else -1
            touched(os.path.abspath(os.path.join(f"/proc/self/fd/{parent}" if parent >= 0 else "", args[0])))

        def noting(sync: Callable[[Any], None]) -> Callable[[Any], None]:
            def synchronise(file: Any) -> None:
                number = file if isinstance(file, int) else file.fileno()
                path = os.readlink(f"/proc/self/fd/{number}")
                touched(path)
                sync(file)
                os.write(log, f"{json.dumps(file_state(os.fstat(number)))}\n".encode())

            return synchronise

        sys.addaudithook(audit)
        os.fsync, os.fdatasync = noting(os.fsync), noting(os.fdatasync)


def strike(moment: Moment) -> None:
    """Signal this process as the moment says; returns where it outlives that."""

    for worker in multiprocessing.active_children() if moment.group else []:
        os.kill(worker.pid or 0, moment.signal)
    if moment.again_s is not None:
        threading.Timer(moment.again_s, os.kill, (os.getpid(), signal.SIGINT)).start()
    os.kill(os.getpid(), moment.signal)
    if moment.signal == signal.SIGKILL:
        time.sleep(60)
