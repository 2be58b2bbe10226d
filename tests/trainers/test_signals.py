"""Stopping by a signal: the step is finished and saved, and the same command goes on as if nothing had happened."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from paddlenlp.trainer import TrainerCallback

from ppsd.trainers import console, pretrain, signals
from ppsd.trainers.exit_codes import STOPPED
from ppsd.trainers.signals import StopSignals
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.trainers.conftest import Run, assert_same_weights, losses, weights


class Sending(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_load_data_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step and self.number:
            os.kill(os.getpid(), self.number)
            self.number = 0


def stopping(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """From here on, trainers are stopped in `step`."""

    class Stopped(StableDiffusionTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(Sending(step, number))

    monkeypatch.setattr(pretrain, "StableDiffusionTrainer", Stopped)


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGTERM, {"use_ema": True, "dataloader_num_workers": 1}),
        (signal.SIGINT, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, options: dict
) -> None:
    whole = tiny_run.train(tmp_path / "a", **options)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        stopping(patch, 4, number)
        stopped = tiny_run.train(tmp_path / "b", **options)
    assert stopped.watch.stopped
    assert stopped.watch.reason == signal.Signals(number).name
    assert [path.name for path in sorted((tmp_path / "b").glob("checkpoint-*"))] == ["checkpoint-3", "checkpoint-4"]
    assert not (tmp_path / "b" / "model_index.json").exists()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    again = tiny_run.train(tmp_path / "b", **options)
    assert losses(again) == losses(whole)
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_run_that_saves_nothing_is_stopped_too(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    stopping(monkeypatch, 2, signal.SIGTERM)
    flags = tiny_run.flags(tmp_path, save_strategy="no")
    with pytest.raises(SystemExit) as ending:
        pretrain.main(flags)
    assert ending.value.code == STOPPED
    assert "stopped by SIGTERM after step 2; there is no checkpoint yet" in capfd.readouterr().err


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """These tests may run under nohup, whose processes a closed terminal does not stop."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_under_nohup_a_closed_terminal_changes_nothing() -> None:
    command = ["nohup", sys.executable, "-c", SCRIPT, "0", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=FOLDER)
    assert (done.returncode, done.stdout) == (-15, "alive None\n"), done.stderr


def test_a_log_line_for_a_terminal_that_is_gone_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stderr", Gone())
    console.AboveTheBar().emit(logging.makeLogRecord({"msg": "stopped"}))


FOLDER = {**os.environ, "PYTHONPATH": os.path.dirname(signals.__file__)}  # without paddle, which takes long to import
SCRIPT = """
import os, signal, sys, time
from signals import StopSignals
signals = StopSignals()
signals.install()
for gap, number in zip(map(float, sys.argv[1::2]), map(int, sys.argv[2::2])):
    time.sleep(gap)
    os.kill(os.getpid(), number)
time.sleep(1.5)
print("alive", signals.requested, flush=True)
signals.restore()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
"""


@pytest.mark.parametrize(
    ("sent", "code", "output"),
    [
        (["0", "15"], -15, "alive 15\n"),  # restored: the next one ends it as usual
        (["0", "15", "0.2", "15", "0.2", "15"], -15, "alive 15\n"),  # as paddle's launcher sends one
        (["0", "1", "0.2", "1"], -15, "alive 1\n"),  # as a terminal that is closed, and its shell
        (["0", "15", "3.5", "15"], 128 + 15, ""),
        (["0", "2", "0.2", "2"], 128 + 2, ""),
        (["0", "15", "0.2", "2"], 128 + 2, ""),
    ],
)
@pytest.mark.usefixtures("no_nohup")
def test_a_second_signal_ends_the_process_at_once(sent: list[str], code: int, output: str) -> None:
    command = [sys.executable, "-c", SCRIPT, *sent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=FOLDER)
    assert (done.returncode, done.stdout) == (code, output), done.stderr


def test_the_second_signal_does_not_wait_for_the_main_thread() -> None:
    """Which may be in a call of C code that never returns to Python."""
    script = """
import os, signal, threading, time, ctypes
from signals import StopSignals
StopSignals().install()
def send():
    for pause in (0.3, 0.5):
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send, daemon=True).start()
until = time.monotonic() + 20
while time.monotonic() < until:
    ctypes.CDLL(None).poll(None, 0, 20000)  # releases the interpreter's lock; EINTR ends it
os._exit(3)
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=FOLDER)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert time.monotonic() - start < 15


def test_exit_code_of_the_training_script(tiny_run: Run, tmp_path: Path) -> None:
    code, log = run_script(tiny_run.flags(tmp_path, max_steps=10000, save_steps=10000, logging_steps=1))
    assert code == STOPPED, log
    assert "stopped by SIGTERM after step" in log
    assert f"the same command continues {tmp_path}/checkpoint-" in log
    assert "Traceback" not in log


def run_script(flags: list[str], number: Optional[int] = signal.SIGTERM) -> tuple[int, str]:
    """Exit code and log of the training script, which gets a signal after its first step."""
    command = [sys.executable, "-c", "from ppsd.trainers.pretrain import main; main()", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            log += line
            if number is not None and "step 2/" in line:
                process.send_signal(number)
                number = None
    return process.returncode, log


def test_handlers_are_left_alone_outside_of_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopSignals()
    thread = threading.Thread(target=stop.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    stop.restore()
    assert signal.getsignal(signal.SIGTERM) is before
