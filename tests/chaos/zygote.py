"""A process that has imported everything and forks a child for each attempt: 5 s of imports are paid once.

It has never computed anything, so there are no threads or devices that a fork would lose. Requests come as lines of
JSON on standard input: {"start": Spec, "log": file} is answered by the child's process id, {"wait": [ids], "seconds":
s} by the codes of those that have ended. The caller kills.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence

import ppsd.compat  # noqa: F401  before paddle

import paddle

from tests.chaos.attempt import Spec, exit_code
from tests.chaos.places import enter_mounts

PR_SET_PDEATHSIG = 1


def start(spec: Spec, log: str) -> int:
    process = os.fork()
    if process:
        return process
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(spec.environment)
        paddle.distributed.parallel._global_parallel_env = None  # it has read the environment of the zygote
        if spec.namespace is not None:
            enter_mounts(spec.namespace)
        code = exit_code(spec)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    finally:
        os._exit(70)


def wait(processes: Sequence[int], seconds: float) -> dict[int, int]:
    """Exit codes of those that have ended, negative for signals, as soon as one has; nothing after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        codes = {}
        for process in processes:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                codes[process] = os.waitstatus_to_exitcode(status)
        if codes or time.monotonic() >= end:
            return codes
        time.sleep(0.01)


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may write between the answers
    gc.freeze()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer: object = start(Spec.from_json(json.dumps(request["start"])), request["log"])
        else:
            answer = wait(request["wait"], request["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
