"""Processes that do not outlive the launcher."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

from paddle.distributed.launch.utils.process_context import ProcessContext

PR_SET_PDEATHSIG = 1  # see prctl(2); Linux only


class Child(ProcessContext):
    """In a session of its own, as paddle starts it. Where the launcher is killed it gets SIGTERM, saves and ends:
    left alone it would train on, unseen, beside the run that is started next in the same folder."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        prctl = getattr(ctypes.CDLL(None), "prctl", None)

        def begin() -> None:
            os.setsid()
            if prctl is not None:
                prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        super().__init__(*args, preexec_fn=begin, **kwargs)
