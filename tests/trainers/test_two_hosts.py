"""Two hosts: network namespaces joined by a cable (a veth pair) that share the data and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.conftest import Run, assert_same_weights, weights

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "stable_diffusion" / "train_txt2img_laion400m_trainer.py"
HOSTS = ("10.213.77.1", "10.213.77.2")
LIMIT = 60.0  # seconds in which a host must notice that the other one is gone


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[list[str]]:
    if shutil.which("ip") is None:
        pytest.skip("two hosts need the command ip (iproute2)")
    names = [f"ppsd-{os.getpid()}-{host}" for host in "ab"]
    cables = [f"pp{os.getpid() % 10**7}{host}" for host in "ab"]
    made: list[str] = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1], "netns", names[1])
        for name, cable, address in zip(names, cables, HOSTS):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            for device in ("lo", cable):
                ip("-n", name, "link", "set", device, "up")
        yield names
    except (subprocess.CalledProcessError, PermissionError) as error:
        pytest.skip(f"two hosts need network namespaces: {getattr(error, 'stderr', error)}")
    finally:
        for name in made:
            ip("netns", "del", name)


class Host:
    """One machine: its own network, working folder, home and temporary folder."""

    def __init__(self, namespace: str, rank: int, folder: Path) -> None:
        self.namespace, self.rank, self.folder = namespace, rank, folder
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def start(self, flags: list[str], script: Path = SCRIPT) -> None:
        """The same command on both, but for the rank."""
        options = ["--master", f"{HOSTS[0]}:9211", "--nnodes", "2", "--rank", str(self.rank), "--nproc_per_node", "1"]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
        }
        command = [sys.executable, "-m", "ppsd.launch", *options, str(script), *flags]
        with (self.folder / "console").open("w") as console:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                cwd=self.folder,
                env=environment,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout: float = 280) -> int:
        return self.process.wait(timeout)

    def said(self) -> str:
        return (self.folder / "console").read_text() + (self.folder / "log" / "workerlog.0").read_text()

    def kill(self) -> None:
        """Everything that runs here, at once, as a power cut does."""
        pids = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True).stdout.split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def hosts(namespaces: list[str], tmp_path: Path) -> Iterator[list[Host]]:
    made = [Host(name, rank, tmp_path / f"host-{rank}") for rank, name in enumerate(namespaces)]
    yield made
    for host in made:
        host.kill()


RECORD = """
import pathlib, sys
from ppsd.models.saving import save_component
from ppsd.trainers import pretrain, trainer

class Recording(trainer.StableDiffusionTrainer):
    def export(self):
        mine = pathlib.Path(f"rank-{self.args.process_index}")
        save_component(self.bundle.unet, mine / "unet")
        save_component(self.bundle.unet, mine / "ema", weights=self.ema.state_dict())
        return super().export()

pretrain.StableDiffusionTrainer = Recording
pretrain.main(sys.argv[1:])
"""


def start(hosts: list[Host], run: Run, **changes: Any) -> None:
    for host in hosts:
        (host.folder / "record.py").write_text(RECORD)
        host.start(flags(run, **changes), host.folder / "record.py")


def flags(run: Run, **changes: Any) -> list[str]:
    return run.flags(Path("out"), per_device_train_batch_size=2, use_ema=True, **changes)


def logged(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.fixture(scope="module")
def one_host(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of this machine give."""
    folder = tmp_path_factory.mktemp("one-host")
    (folder / "record.py").write_text(RECORD)
    command = [sys.executable, "-m", "ppsd.launch", "--nproc_per_node", "2", "record.py", *flags(tiny_run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=280)
    return folder


def test_two_hosts_of_which_one_is_killed_give_what_two_processes_give(
    tiny_run: Run, hosts: list[Host], one_host: Path
) -> None:
    """The second host, which never has a checkpoint, is killed after the first one's; the other ends; both continue.

    The losses of all steps are those of two hosts: before and after.
    """
    start(hosts, tiny_run)
    saved = hosts[0].folder / "out" / "checkpoint-3"
    while not saved.exists():
        assert hosts[0].process.poll() is None, hosts[0].said()[-3000:]
        time.sleep(0.01)
    hosts[1].kill()
    killed = time.monotonic()
    assert hosts[0].wait() not in (0, 75)
    assert time.monotonic() - killed < LIMIT
    said = hosts[0].said()
    ended = ("no sign of life of rank 1", "a process that it talked to has ended", "machine 1 of 0 to 1 has")
    assert any(words in said for words in ended), said[-3000:]
    start(hosts, tiny_run)
    assert [host.wait() for host in hosts] == [0, 0], hosts[0].said()[-3000:] + hosts[1].said()[-3000:]
    assert "continuing from out/checkpoint-3" in hosts[0].said()
    assert logged(hosts[0].folder / "out" / "checkpoint-6") == logged(one_host / "out" / "checkpoint-6")
    assert len(logged(one_host / "out" / "checkpoint-6")) == 6
    assert not (hosts[1].folder / "out" / "checkpoint-6" / "unet").exists(), "they share no disk"
    for part in ("unet", "ema"):
        expected = weights(one_host / "rank-0", part)
        for rank, host in enumerate(hosts):
            assert_same_weights(weights(host.folder / f"rank-{rank}", part), expected)
