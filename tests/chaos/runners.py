"""Ways to start an attempt's processes: forks of a zygote, fresh interpreters, or paddle's launcher."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from tests.chaos.attempt import Spec

ROOT = Path(__file__).absolute().parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5", "PYTHONPATH": str(ROOT)}


class Runner(Protocol):
    """`start` gives the process ids of the ranks, `wait` the exit codes of those that have ended when one has."""

    def start(self, spec: Spec, ranks: int) -> list[int]: ...

    def wait(self, processes: Sequence[int], seconds: float) -> dict[int, int]: ...

    def close(self) -> None: ...


class Zygote:
    """See tests.chaos.zygote."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            text=True,
        )
        self._answer()

    def start(self, spec: Spec, ranks: int) -> list[int]:
        return [self._ask({"start": asdict(each), "log": str(log)}) for each, log in of_ranks(spec, ranks)]

    def wait(self, processes: Sequence[int], seconds: float) -> dict[int, int]:
        codes = self._ask({"wait": list(processes), "seconds": seconds})
        return {int(process): code for process, code in codes.items()}

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the zygote has ended"
        return json.loads(line)


class Fresh:
    """A new interpreter for every process."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen] = {}

    def start(self, spec: Spec, ranks: int) -> list[int]:
        return [self._open([sys.executable], each, log) for each, log in of_ranks(spec, ranks)]

    def wait(self, processes: Sequence[int], seconds: float) -> dict[int, int]:
        end = time.monotonic() + seconds
        while True:
            codes = {process: self._running[process].poll() for process in processes}
            ended = {process: code for process, code in codes.items() if code is not None}
            if ended or time.monotonic() >= end:
                return ended
            time.sleep(0.01)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def _open(self, interpreter: list[str], spec: Spec, log: Path) -> int:
        """Start `interpreter` with the attempt to run."""
        orders = log.with_suffix(".json")
        orders.write_text(spec.to_json(), encoding="utf-8")
        command = [*interpreter, str(ROOT / "tests" / "chaos" / "attempt.py"), str(orders)]
        with open(log, "ab") as file:
            environment = {**os.environ, **ENVIRONMENT, **spec.environment}
            process = subprocess.Popen(command, cwd=spec.work, env=environment, stdout=file, stderr=file)
        self._running[process.pid] = process
        return process.pid


class Launcher(Fresh):
    """`python -m paddle.distributed.launch`: the one process that is started is the launcher."""

    def start(self, spec: Spec, ranks: int) -> list[int]:
        launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks)]
        launch += ["--log_dir", f"launch-{spec.number}"]
        return [self._open(launch, spec, Path(spec.work, f"attempt-{spec.number}.log"))]


def of_ranks(spec: Spec, ranks: int) -> list[tuple[Spec, Path]]:
    """What each rank is to do, with the variables that paddle's launcher would set, and where its output goes."""
    logs = [Path(spec.work, f"attempt-{spec.number}-{rank}.log") for rank in range(ranks)]
    if ranks == 1:
        return [(spec, logs[0])]
    endpoints = [f"127.0.0.1:{port}" for port in free_ports(ranks)]
    common = {
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_GLOBAL_SIZE": str(ranks),
        "PADDLE_LOCAL_SIZE": str(ranks),
        "PADDLE_NNODES": "1",
        "PADDLE_TRAINERS_NUM": str(ranks),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_DISTRI_BACKEND": "gloo",
    }
    environments = [
        {
            **common,
            "PADDLE_GLOBAL_RANK": str(rank),
            "PADDLE_LOCAL_RANK": str(rank),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_CURRENT_ENDPOINT": endpoint,
        }
        for rank, endpoint in enumerate(endpoints)
    ]
    return [(replace(spec, environment={**spec.environment, **e}), log) for e, log in zip(environments, logs)]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
