"""How the launcher ends the processes that it started, and with which exit code. They know nothing of paddle."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from paddle.distributed.launch.context import Context

from ppsd.launch import options
from ppsd.launch.__main__ import can_be_mended, main
from ppsd.launch.launcher import LAST_BYTES, STOPPED, last_lines
from ppsd.launch.peers import Peers

# Counts the signals that it and a child of its own get in the time that saving takes, and ends with 75.
SAVES = """
import os, signal, subprocess, sys, time
got = []
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: got.append(1))
child = subprocess.Popen(["sleep", "60"])
print("ready", flush=True)
while not got:
    time.sleep(0.01)
print("saving", flush=True)
if sys.argv[1] == "slow":
    while len(got) < 2:
        time.sleep(0.01)
    os._exit(143)
time.sleep(1.5)
print("signals", len(got), "child", child.poll(), flush=True)
child.kill()
sys.exit(75)
"""
# The second one ends by itself, the first would go on for a minute.
DIES = """
import os, sys, time
if os.environ["PADDLE_TRAINER_ID"] == "1":
    print("these are my last words", flush=True)
    os.kill(os.getpid(), 9) if sys.argv[1] == "kill" else sys.exit(int(sys.argv[1]))
time.sleep(60)
"""


def start(folder: Path, code: str, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    (folder / "worker.py").write_text(code)
    command = [sys.executable, "-m", "ppsd.launch", "--nproc_per_node", "2", *options, "worker.py", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these tests may run under nohup
    )


def log(folder: Path, rank: int) -> str:
    file = folder / "log" / f"workerlog.{rank}"
    return file.read_text() if file.exists() else ""


def wait_until_all(folder: Path, word: str) -> None:
    deadline = time.monotonic() + 120
    while not all(word in log(folder, rank) for rank in range(2)):
        assert time.monotonic() < deadline, [log(folder, rank) for rank in range(2)]
        time.sleep(0.05)


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM],
        [signal.SIGHUP, signal.SIGHUP],  # of a terminal that is closed, and of its shell
    ],
)
def test_a_signal_reaches_each_process_once_and_its_code_is_the_end(tmp_path: Path, numbers: list[int]) -> None:
    launcher = start(tmp_path, SAVES, "fast")
    wait_until_all(tmp_path, "ready")
    for number in numbers:
        launcher.send_signal(number)
        wait_until_all(tmp_path, "saving")
    said = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == STOPPED, said
    assert [log(tmp_path, rank).splitlines()[-1] for rank in range(2)] == ["signals 1 child None"] * 2
    assert "the same command continues (exit code 75)" in said


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    launcher = start(tmp_path, SAVES, "slow")
    wait_until_all(tmp_path, "ready")
    launcher.send_signal(signal.SIGTERM)
    wait_until_all(tmp_path, "saving")
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=120)
    assert launcher.returncode == 143


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launcher = start(tmp_path, SAVES, "fast")
    wait_until_all(tmp_path, "ready")
    launcher.kill()
    launcher.communicate(timeout=120)
    wait_until_all(tmp_path, "signals 1")


def test_the_process_that_fails_first_is_named(tmp_path: Path) -> None:
    launcher = start(tmp_path, DIES, "3")
    said = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 3, "not that of the one that was killed after it"
    assert "the process of rank 1 ended with exit code 3; its log, log/workerlog.1, ends:" in said
    assert "    these are my last words\n" in said


def test_killed_processes_are_started_again_as_often_as_asked(tmp_path: Path) -> None:
    launcher = start(tmp_path, DIES, "kill", options=("--max_restart", "1"))
    said = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 128 + signal.SIGKILL
    assert log(tmp_path, 1).count("last words") == 2
    assert said.count("the process of rank 1 was killed by SIGKILL") == 2
    assert said.count("starting the processes again; that may happen 0 times more") == 1


def test_the_last_lines_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff" * 3 * LAST_BYTES + b"\n" + b"".join(b"line %d\n" % n for n in range(20)))
    assert last_lines(tmp_path / "log") == [f"line {n}" for n in range(5, 20)]
    assert last_lines(tmp_path / "none") == []


def test_what_a_restart_cannot_mend() -> None:
    assert [code for code in (0, 1, 2, 75, 76, 134, 137) if not can_be_mended(code)] == [0, 2, 75]


@pytest.mark.parametrize(
    ("options", "flags", "says"),
    [
        (("--master", "etcd://127.0.0.1:2379"), (), "only runs with --master HOST:PORT or --ips"),
        (("--max_restart", "2"), ("--overwrite_output_dir",), "would start over each time"),
        (("--ips", "203.0.113.1,203.0.113.2"), (), "none of them is an address of this machine"),
        (("--ips", "203.0.113.1,203.0.113.2", "--host", "127.0.0.1"), (), "--host 127.0.0.1 is none of --ips"),
        (("--nods", "2"), (), "has no option --nods"),
        (("--nnodes", "2", "--master", "10.0.0.1"), (), "--master 10.0.0.1: it must be HOST:PORT"),
        (("--nnodes", "2", "--master", "[::1]:8090"), (), "knows no IPv4 address of [::1]"),
    ],
)
def test_what_the_launcher_refuses(
    tmp_path: Path, options: tuple[str, ...], flags: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch", *options, "worker.py", *flags])
    with pytest.raises(SystemExit, match=r"^error: ") as caught:
        main()
    assert says in str(caught.value)


def test_ips_are_a_master_and_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["launch", "--ips", "203.0.113.1,203.0.113.2", "--start_port", "7000", "worker.py"]
    monkeypatch.setattr(sys, "argv", words)
    args = Context().args
    options.use_master(args, "203.0.113.2")
    assert (args.master, args.nnodes, args.rank) == ("203.0.113.1:7000", "2", 1)


def test_own_address() -> None:
    assert options.own_address("10.0.0.9", None, "127.0.0.1:1") == "10.0.0.9"
    assert options.own_address(None, "203.0.113.1,127.0.0.1", None) == "127.0.0.1"
    assert options.own_address(None, None, "127.0.0.1:8090") == "127.0.0.1", "what the way to the master starts at"
    assert options.own_address(None, None, None) is None


def test_a_master_is_given_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.numeric(None) is None
    assert options.numeric("203.0.113.1:8090") == "203.0.113.1:8090"
    assert options.numeric("localhost:8090") == "127.0.0.1:8090"
    monkeypatch.setattr(socket, "gethostbyname", {"node-1": "203.0.113.7", "node-2": "127.0.1.1"}.__getitem__)
    assert options.numeric("node-1:8090") == "203.0.113.7:8090"
    with pytest.raises(SystemExit, match=r"node-2 is 127.0.1.1 here; give the address that the others reach it by"):
        options.numeric("node-2:8090")  # as Debian's /etc/hosts says on node-2 itself


def test_the_interface_of_an_address() -> None:
    assert options.interface_of("127.0.0.1") == "lo"
    assert options.interface_of("203.0.113.1") is None


def test_a_silent_and_an_ended_machine_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from paddle.distributed.launch.utils.kv_server import KVServer

    monkeypatch.setattr("ppsd.launch.peers.INTERVAL", 0.2)
    monkeypatch.setattr("ppsd.launch.peers.LIMIT", 4.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = KVServer(port)
    server.start()
    first, second = (Peers(f"127.0.0.1:{port}", "job", rank, 2) for rank in range(2))
    deadline = time.monotonic() + 60
    while min(int(server.kv.get(f"/ppsd/job/alive/{rank}", b"0")) for rank in range(2)) < 25:  # 5 s
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (first.lost, second.lost) == (None, None)
    second.end(3)
    assert wait_for_loss(first) == "machine 1 of 0 to 1 has ended with exit code 3"
    third = Peers(f"127.0.0.1:{port}", "job", 0, 2)
    server.stop()
    assert wait_for_loss(third) == "machine 1 of 0 to 1 has given no sign of life for 4 s"


def wait_for_loss(peers: Peers) -> str:
    deadline = time.monotonic() + 60
    while peers.lost is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return peers.lost


class Turns:
    """Stands for the event that ends the watching, after so many turns."""

    def __init__(self, count: int) -> None:
        self.left = count

    def wait(self, seconds: float) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("answer", [{0: "1", 1: "1"}, IncompleteRead(b"")], ids=["silence", "half an answer"])
def test_time_in_which_all_machines_were_suspended_does_not_count(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour passes from turn to turn, of which 6 s count: a machine is lost after 25 s."""
    hours = itertools.count(0, 1800)
    monkeypatch.setattr("ppsd.launch.peers.time.monotonic", lambda: float(next(hours)))
    lost = {}
    for turns in (4, 6):
        peers = Peers.__new__(Peers)
        peers.rank, peers.size, peers.lost, peers._done = 0, 2, None, Turns(turns)
        monkeypatch.setattr(peers, "_put", lambda value: None)
        monkeypatch.setattr(peers, "_get", lambda: answer if isinstance(answer, dict) else raise_(answer))
        peers._watch()
        lost[turns] = peers.lost
    assert lost == {4: None, 6: "machine 1 of 0 to 1 has given no sign of life for 25 s"}


def raise_(error: Exception) -> Any:
    raise error


def test_a_machine_that_has_saved_first_is_not_lost() -> None:
    peers = Peers.__new__(Peers)
    peers.rank, peers.size = 0, 2
    said = {0: ("9", 100.0), 1: ("ended 75", 100.0)}
    assert peers._gone(said, now=130.0) is None
    assert peers._gone(said, now=161.0) == "machine 1 of 0 to 1 has ended with exit code 75"
    assert peers._gone({**said, 1: ("ended 137", 100.0)}, now=105.0) is not None
