"""The shell scripts, with this interpreter's environment as the one that has ppsd."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers.conftest import Run, tiny_run  # noqa: F401  a fixture

ROOT = Path(__file__).parents[2]


def sh(script: str, flags: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    command = ["sh", str(ROOT / "examples" / "stable_diffusion" / script), *flags]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("train.sh", []),
        ("train_multi_gpu.sh", ["--log_dir", "logs", "--"]),
        ("train_multi_node.sh", ["--nnodes", "1", "--log_dir", "logs", "--"]),
    ],
)
def test_scripts_pass_flags_on_from_any_folder(
    tiny_run: Run,  # noqa: F811
    tmp_path: Path,
    script: str,
    options: list[str],
) -> None:
    """A value with a space in it stays one value."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    flags = tiny_run.flags(Path("my out"), max_steps=2, per_device_train_batch_size=2)
    done = sh(script, [*options, *flags], folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (folder / "my out" / "model_index.json").is_file()


def test_a_failed_training_fails_the_script(tmp_path: Path) -> None:
    done = sh("train.sh", ["--output_dir", "out", "--max_steps", "1", "--file_list", "nowhere"], tmp_path)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
