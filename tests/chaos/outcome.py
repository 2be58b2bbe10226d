"""How an attempt ends, and whether it may end so."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.chaos.attempt import Spec
from tests.chaos.runners import Runner

ATTEMPT_LIMIT_S = 240
SURVIVOR_LIMIT_S = 60  # in which a process whose peer was killed has to end
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)
STOPPED = 75  # the code of a run that was asked to stop and has saved


@dataclass(frozen=True)
class Outcome:
    """How one ended. kind: of the moment it was killed at, or none. first: the step it went on from. survivor_s: until
    the peer of a killed one had ended by itself, where it was let."""

    kind: str
    codes: tuple[int, ...]
    seconds: float
    first: int = 0
    half_saved: bool = False
    survivor_s: Optional[float] = None


def finished_by(runner: Runner, spec: Spec, ranks: int) -> tuple[tuple[int, ...], str]:
    """Start, wait: the exit codes and what was said."""
    return finish(runner, spec, runner.start(spec, ranks), random.Random(1)).codes, log_of(spec)


def finish(runner: Runner, spec: Spec, processes: Sequence[int], rng: random.Random) -> Outcome:
    """Wait for all to end. When one of several is killed, so are the others, or they have a minute to end alone."""
    start, moment = time.monotonic(), spec.moment
    codes: dict[int, int] = {}
    survivor_s = None
    if moment is not None and moment.kind == "clock":
        codes = runner.wait(processes, moment.seconds)
        if not codes:
            os.kill(processes[moment.rank % len(processes)], signal.SIGKILL)
    codes = codes or runner.wait(processes, ATTEMPT_LIMIT_S)
    assert codes, f"attempt {spec.number} has not ended after {ATTEMPT_LIMIT_S} s: {log_of(spec)}"
    ended = time.monotonic()
    left = [process for process in processes if process not in codes]
    killed = moment is not None and moment.signal == signal.SIGKILL and any(codes.values())
    kill_peers = killed and (rng.random() < 0.5 or not joined(spec, len(processes)))
    while left:
        if kill_peers:
            for process in left:
                os.kill(process, signal.SIGKILL)
        more = runner.wait(left, SURVIVOR_LIMIT_S)
        assert more, f"a process goes on {SURVIVOR_LIMIT_S} s after its peer has ended: {log_of(spec)}"
        survivor_s = None if kill_peers else time.monotonic() - ended
        codes.update(more)
        left = [process for process in left if process not in codes]
    in_order = tuple(codes[process] for process in processes)
    kind = moment.kind if moment is not None and any(in_order) else "none"
    return Outcome(kind, in_order, time.monotonic() - start, survivor_s=survivor_s)


def joined(spec: Spec, ranks: int) -> bool:
    """Whether the processes have found one another: one that looks for a killed one is ended by the launcher alone."""
    logs = [Path(spec.work, f"attempt-{spec.number}-{rank}.log") for rank in range(ranks)]
    there = [log.read_text(errors="replace") for log in logs if log.is_file()]  # a launcher has its own
    return ranks == 1 or all("Successfully connected" in text for text in there)


def require_ended(attempt: Outcome, spec: Spec, finished: bool) -> None:
    """In the way that was meant. Of several processes at least one ends so, and none as if all were well."""
    codes, moment = attempt.codes, spec.moment
    if not any(codes):
        return
    said = f"attempt {spec.number} ended with {codes}: {log_of(spec)}"
    assert not finished, said
    assert moment is not None, said
    if moment.signal != signal.SIGKILL:
        again = [] if moment.again_s is None else [128 + signal.SIGINT]
        assert all(code in [STOPPED, *again] for code in codes), said
        return
    data_worker = moment.kind == "data" and "data worker" in log_of(spec)
    assert data_worker or any(code in KILLED for code in codes), said
    assert all(codes), said


def log_of(spec: Spec) -> str:
    """The end of what the processes of an attempt have said."""
    work, number = Path(spec.work), spec.number
    logs = sorted([*work.glob(f"attempt-{number}*.log"), *work.glob(f"launch-{number}/*")])
    return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}" for log in logs if log.is_file())


def num_kills(attempts: Sequence[Outcome]) -> int:
    return sum(attempt.kind != "none" for attempt in attempts)


def num_continued(attempts: Sequence[Outcome]) -> int:
    """Kills of attempts that had begun with a checkpoint."""
    return sum(attempt.kind != "none" and attempt.first > 0 for attempt in attempts)


def table(attempts: Sequence[Outcome], repeated: int, seconds: float) -> list[str]:
    """Kills by moment."""
    lines = [f"{'moment':10} {'kills':>5} {'in a save':>9} {'mean s':>7} {'survivor s':>10}"]
    for kind in sorted({attempt.kind for attempt in attempts}):
        of_kind = [attempt for attempt in attempts if attempt.kind == kind]
        mean = sum(attempt.seconds for attempt in of_kind) / len(of_kind)
        survivors = [attempt.survivor_s for attempt in of_kind if attempt.survivor_s is not None]
        longest = f"{max(survivors):.1f}" if survivors else "-"
        name, kills = ("(finished)", 0) if kind == "none" else (kind, len(of_kind))
        lines.append(f"{name:10} {kills:5} {sum(a.half_saved for a in of_kind):9} {mean:7.1f} {longest:>10}")
    kills = f"{num_kills(attempts)} kills, {num_continued(attempts)} of them of a continued run"
    lines.append(f"{kills}; {len(attempts)} attempts, {repeated} steps done again, {seconds:.0f} s")
    return lines
