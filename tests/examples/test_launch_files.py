"""What configs/launch/ holds: its page says what is, and its jobs pass signals and exit codes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppsd.launch.launcher import STOPPED
from ppsd.trainers import exit_codes
from tests import commands
from tests import pages as docs

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "configs" / "launch"
ENGLISH, CHINESE = LAUNCH / "README.md", LAUNCH / "README_zh.md"
MULTI_NODE = "examples/stable_diffusion/train_multi_node.sh"
both = pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=["en", "zh"])
# A stand-in for the training: it says how it was called, and saves when it is told to.
TRAINING = """
echo "$@" >called
trap 'exit 75' TERM
touch started
while :; do sleep 0.05; done
"""


def kubernetes() -> tuple[dict[str, Any], dict[str, Any]]:
    """(service, job)."""
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    return service, job


def container() -> dict[str, Any]:
    return dict(kubernetes()[1]["spec"]["template"]["spec"]["containers"][0])


def check_flags(words: list[str]) -> None:
    """Of a call of train_multi_node.sh: launch options before --, trainer's flags after it."""
    place = words.index("--")
    for part, known in ((words[:place], commands.launcher_flags()), (words[place:], commands.trainer_flags())):
        assert {word for word in part if docs.FLAG.fullmatch(word)} - known == set()


def test_the_launcher_and_the_trainer_mean_the_same_code() -> None:
    assert STOPPED == exit_codes.STOPPED


@both
def test_every_file_is_named_and_nothing_else(page: Path) -> None:
    files = {file.name for file in LAUNCH.iterdir()} - {"README.md", "README_zh.md"}
    text = docs.text_of(page)
    assert {file for file in files if f"`{file}`" not in text} == set()
    assert set(re.findall(r"`([\w.]+\.(?:args|sbatch|yaml|sh))`", text)) - files == {
        "train_multi_gpu.sh",
        "train_multi_node.sh",
    }


@both
def test_flags_of_the_page_exist(page: Path) -> None:
    of_slurm = {"--signal", "--requeue"}
    assert set(docs.FLAG.findall(docs.text_of(page))) - commands.known_flags() - of_slurm == set()


@both
def test_commands_of_the_page_have_flags_that_exist(page: Path) -> None:
    lines = [line for _, body in docs.code_blocks(page) for line in body.splitlines() if "examples/" in line]
    assert len(lines) == 4
    for line in lines:
        check_flags(line.split()[2:])


def test_both_languages_say_the_same() -> None:
    assert [level for level, _ in docs.headings(ENGLISH)] == [level for level, _ in docs.headings(CHINESE)]
    assert docs.code_blocks(ENGLISH) == docs.code_blocks(CHINESE)
    for original, translated in zip(docs.sections(ENGLISH), docs.sections(CHINESE)):
        assert sorted(set(docs.spans(original))) == sorted(set(docs.spans(translated)))
        assert len(re.findall(r"^\|", original, re.MULTILINE)) == len(re.findall(r"^\|", translated, re.MULTILINE))


@both
def test_the_table_of_exit_codes_is_that_of_the_code(page: Path) -> None:
    named = set(map(int, re.findall(r"^\| (\d+) \|", docs.text_of(page), flags=re.MULTILINE)))
    assert named == {0, 2, exit_codes.ERROR, exit_codes.STOPPED, exit_codes.HANG}


@pytest.mark.parametrize("file", ["environment.sh", "slurm.sbatch"])
def test_shell_files_parse(file: str) -> None:
    assert subprocess.run(["sh", "-n", str(LAUNCH / file)]).returncode == 0


@both
def test_variables_of_the_environment_are_explained(page: Path) -> None:
    set_or_named = set(re.findall(r"export ([A-Z_]+)=", docs.text_of(LAUNCH / "environment.sh")))
    assert len(set_or_named) == 9
    assert {name for name in set_or_named if f"`{name}`" not in docs.text_of(page)} == set()


def test_the_environment_keeps_what_is_set() -> None:
    command = f". {LAUNCH / 'environment.sh'}; echo $NCCL_IB_TIMEOUT $NCCL_DEBUG"
    environment = {**os.environ, "NCCL_IB_TIMEOUT": "20"}
    said = subprocess.run(["sh", "-euc", command], env=environment, capture_output=True, text=True, check=True).stdout
    assert said == "20 WARN\n"


def test_kubernetes_machines_find_each_other() -> None:
    service, job = kubernetes()
    pod = job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    name = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert f"getent ahostsv4 {name} " in container()["args"][0]
    nnodes = int(re.findall(r"--nnodes (\d+)", container()["args"][0])[0])
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == nnodes
    port = container()["ports"][0]["containerPort"]
    assert f'--master "$address:{port}"' in container()["args"][0]


def test_kubernetes_exit_codes_and_shared_memory() -> None:
    job = kubernetes()[1]["spec"]
    rules = {
        rule["onExitCodes"]["values"][0]: (rule["action"], rule["onExitCodes"]["containerName"])
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules == {exit_codes.STOPPED: ("Ignore", container()["name"]), 2: ("FailJob", container()["name"])}
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "what podFailurePolicy demands"
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def test_kubernetes_command_starts_the_training(tmp_path: Path) -> None:
    """Its shell words, with stand-ins for the network and the training."""
    words = container()["args"][0]
    stand_ins(tmp_path, {"getent": 'echo "10.1.2.3 STREAM"'})
    training = start(["sh", "-c", words], tmp_path, JOB_COMPLETION_INDEX="1")
    training.send_signal(signal.SIGTERM)
    assert training.wait(60) == STOPPED, "the training is process 1 of the pod, and gets the signal"
    called = (tmp_path / "called").read_text().split()
    assert called[:6] == ["--master", "10.1.2.3:8090", "--nnodes", "2", "--rank", "1"]
    check_flags(called)


@pytest.mark.parametrize("told", [True, False])
def test_slurm_saves_and_requeues(tmp_path: Path, told: bool) -> None:
    """With stand-ins for SLURM's commands. A job that fails otherwise is not put back by the script."""
    srun = """
while [ "${1#--}" != "$1" ]; do shift; done
SLURM_NODEID=1 "$@" & task=$!
trap 'kill -TERM $task' TERM
code=0
wait $task || code=$?
while kill -0 $task 2>/dev/null; do code=0; wait $task || code=$?; done
exit $code
"""
    scontrol = 'if [ "$1" = show ]; then echo first; else echo "$@" >scontrol; fi'
    stand_ins(tmp_path, {"srun": srun, "scontrol": scontrol, "getent": 'echo "10.1.2.3 STREAM"'})
    training = TRAINING if told else 'echo "$@" >called; touch started; exit 1'
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2"}
    job = start(["sh", str(LAUNCH / "slurm.sbatch"), "--output_dir", "a folder"], tmp_path, training, **slurm)
    if told:
        job.send_signal(signal.SIGTERM)
    assert job.wait(60) == (STOPPED if told else 1)
    requeued = tmp_path / "scontrol"
    assert (requeued.read_text() if requeued.exists() else "") == ("requeue 12345\n" if told else "")
    called = (tmp_path / "called").read_text().strip()
    assert called.startswith("--master 10.1.2.3:22345 --nnodes 2 --rank 1 ")
    assert called.endswith(" -- --output_dir a folder")
    check_flags(called.split())


def stand_ins(folder: Path, commands: dict[str, str]) -> None:
    for name, body in commands.items():
        file = folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)


def start(command: list[str], folder: Path, training: str = TRAINING, **variables: str) -> subprocess.Popen[bytes]:
    """In a folder that looks like the repository; comes back when the training runs."""
    for name, body in ((MULTI_NODE, training), ("configs/launch/environment.sh", "")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body)
    environment = {**os.environ, **variables, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(command, cwd=folder, env=environment)
    while not (folder / "started").exists():
        assert process.poll() in (None, 1)
        time.sleep(0.02)
    return process
