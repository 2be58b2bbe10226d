"""A run that hangs ends, with a line that says who waited where for what."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppsd.trainers.exit_codes import HANG, STOPPED
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.meter import Meter
from ppsd.trainers.status_board import Status, StatusBoard
from ppsd.trainers.watchdog import Watchdog
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.trainers.conftest import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes of processes that watchdogs would have ended."""
    codes: list[int] = []
    monkeypatch.setattr("ppsd.trainers.watchdog.os._exit", codes.append)
    return codes


def pass_time(ended: list[int], ends: bool) -> None:
    """Until the process would have been ended; or long enough for that, where it is not to happen."""
    deadline = time.monotonic() + (60 if ends else 1)
    while time.monotonic() < deadline and not (ends and ended):
        time.sleep(0.05)


def test_data_that_does_not_come_ends_the_process(ended: list[int], caplog: pytest.LogCaptureFixture) -> None:
    heart = Heart()
    heart.step = 3
    dog = Watchdog(heart, StatusBoard(0, 1, heart), 0.3, 0.0, lambda: "lane 5 of part-7")
    dog.start()
    pass_time(ended, ends=True)
    dog.close()
    assert ended == [HANG]
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "error: rank 0, step 3: 0 s without progress, waiting for data; lane 5 of part-7; --data_timeout" in said
    assert "test_data_that_does_not_come_ends_the_process" in said  # the stack of this thread


def test_progress_keeps_it_quiet(ended: list[int]) -> None:
    heart = Heart()
    dog = Watchdog(heart, StatusBoard(0, 1, heart), 1.0, 0.0, lambda: "")
    dog.start()
    for _ in range(30):
        time.sleep(0.05)
        heart.beat(Phase.DATA)
    dog.close()
    assert ended == []


@pytest.mark.parametrize(
    ("phase", "steps", "codes"),
    [
        (Phase.COMPUTE, 1, []),  # the first step compiles and tunes
        (Phase.COMPUTE, 2, [HANG]),
        (Phase.EXCHANGE, 2, [HANG]),
        (Phase.SAVING, 9, []),
        (Phase.PREVIEWS, 9, []),
        (Phase.DATA, 9, []),  # has a limit of its own, here none
    ],
)
def test_what_may_take_long_has_more_time(ended: list[int], phase: Phase, steps: int, codes: list[int]) -> None:
    heart = Heart()
    dog = Watchdog(heart, StatusBoard(0, 1, heart), 0.0, 0.3, lambda: "")
    dog.start()
    heart.step = steps
    heart.beat(phase)
    pass_time(ended, ends=bool(codes))
    dog.close()
    assert ended == codes


def test_zero_turns_it_off(ended: list[int]) -> None:
    threads = threading.active_count()
    heart = Heart()
    dog = Watchdog(heart, StatusBoard(0, 1, heart), 0.0, 0.0, lambda: "")
    dog.start()
    assert threading.active_count() == threads


class Board(StatusBoard):
    """Of three processes, with what the others have written given."""

    def __init__(self, others: list[Status], silent: bool) -> None:
        super().__init__(0, 3, Heart())
        self.interval, self.others, self.silent, self.count = 0.01, others, silent, 0

    def ask(self) -> list[Status]:
        self.count += 1
        alive = 0 if self.silent else self.count
        others = [(count + alive, step, phase) for count, step, phase in self.others]
        return [(self.count, 7, Phase.EXCHANGE.value), *others]


def test_who_is_behind_is_named(ended: list[int], caplog: pytest.LogCaptureFixture) -> None:
    heart = Heart()
    board = Board([(4, 7, Phase.EXCHANGE.value), (4, 6, Phase.COMPUTE.value)], silent=True)
    dog = Watchdog(heart, board, 0.0, 0.3, lambda: "")
    dog.start()
    heart.step = 7
    heart.beat(Phase.EXCHANGE)
    pass_time(ended, ends=True)
    dog.close()
    said = caplog.records[0].getMessage()
    assert (
        f"no sign of life of rank 1 (last seen at step 7, {Phase.EXCHANGE.value}), rank 2 (last seen at step 6" in said
    )
    assert "rank 2 is at step 6, computing" in said
    assert said.index("rank 2 is at step 6") < said.index("rank 1 is at step 7")
    assert ended == [HANG]


def test_a_process_that_draws_previews_is_waited_for(ended: list[int]) -> None:
    heart = Heart()
    board = Board([(4, 7, Phase.PREVIEWS.value), (4, 7, Phase.EXCHANGE.value)], silent=False)
    dog = Watchdog(heart, board, 0.0, 0.3, lambda: "")
    dog.start()
    heart.step = 7
    heart.beat(Phase.EXCHANGE)
    pass_time(ended, ends=False)
    dog.close()
    assert board.count > 0
    assert ended == []


def test_starvation_is_said_once_after_the_warm_up() -> None:
    now = [0.0]
    meter = Meter(clock=lambda: now[0])

    def pass_time(waiting: float, working: float) -> Any:
        def slow() -> Iterator[int]:
            now[0] += waiting
            yield 1

        list(meter.watch(slow()))
        now[0] += working
        meter.read()
        return meter.advice(2)

    assert pass_time(30, 10) is None  # warming up
    assert pass_time(5, 35) is None
    assert pass_time(3, 7) is None  # too short to tell
    assert "40% of the last 40 s were spent waiting for data: give more --dataloader_num_workers (now 2)" in (
        pass_time(13, 17) or ""
    )
    assert pass_time(30, 10) is None


def test_a_part_that_cannot_be_read_to_its_end_ends_the_run(tiny_run: Run, tmp_path: Path) -> None:
    """A named pipe that nobody writes to, read by a data worker."""
    good = write_lines(tmp_path / "good", [part_line(f"a {i}", jpeg_bytes(72, 72, i)) for i in range(20)])
    os.mkfifo(tmp_path / "stuck")
    flags = tiny_run.flags(
        tmp_path / "out",
        file_list=write_lists(tmp_path, {"set": [good, tmp_path / "stuck"]}),
        data_format="laion400m",
        check_data="off",
        dataloader_num_workers=1,
        data_timeout=3,
    )
    code, log = run([sys.executable, "-c", "from ppsd.trainers.pretrain import main; main()", *flags], tmp_path)
    assert code == HANG, log
    assert "without progress, waiting for data; data worker 0, lane" in log
    assert f"{tmp_path}/stuck after line 0" in log
    assert "take(" in log  # the stack


def run(command: list[str], folder: Path) -> tuple[int, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    logs = [file.read_text(errors="replace") for file in sorted(folder.glob("log/workerlog.*"))]
    return done.returncode, "\n".join([*logs, done.stdout, done.stderr])


TROUBLE = """
import os, signal, sys
from paddlenlp.trainer import TrainerCallback
from ppsd.trainers import pretrain, trainer

class Trouble(TrainerCallback):
    def on_load_data_end(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step + 1 == 4:
            os.kill(os.getpid(), getattr(signal, os.environ["SENT"]))

class Troubled(trainer.StableDiffusionTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(Trouble())

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        bad = self.args.process_index == 1 and self.state.global_step + 1 == 2 and os.environ["SENT"] == "SIGTERM"
        return loss * float("nan") if bad else loss

pretrain.StableDiffusionTrainer = Troubled
pretrain.main(sys.argv[1:])
"""


def two_processes(tiny_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, sent: str, **flags: Any) -> tuple:
    (folder / "trouble.py").write_text(TROUBLE)
    monkeypatch.setenv("SENT", sent)
    command = [sys.executable, "-m", "ppsd.launch", "--nproc_per_node", "2", "--log_dir", "log", "trouble.py"]
    return run([*command, *tiny_run.flags(folder / "out", per_device_train_batch_size=2, **flags)], folder)


def test_what_one_process_meets_all_act_on(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one has a NaN loss in step 2, which is skipped, and is told to stop in step 4."""
    code, log = two_processes(tiny_run, tmp_path, monkeypatch, "SIGTERM", on_nan="skip", save_steps=100, max_steps=50)
    assert code == STOPPED, log
    assert "step 2: the loss of rank 1 is NaN or infinite; its records, e.g." in log
    assert "stopped by SIGTERM after step 4; the same command continues" in log
    assert "stopped by a signal to another process after step 4" in log
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_process_that_stands_still_is_named(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, log = two_processes(tiny_run, tmp_path, monkeypatch, "SIGSTOP")
    assert code == HANG, log
    assert "error: rank 0, step 4: " in log
    assert re.search(r"no sign of life of rank 1 \(last seen at step [1-4], ", log), log  # it tells once a second
