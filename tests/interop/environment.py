"""torch and diffusers for the tests, in `.venv-interop` beside `.venv`: they cannot share an environment with Paddle.

Made by the first test that asks for it (about three minutes), kept, and made anew when requirements.txt changes.
By hand: python -m tests.interop.environment
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-interop"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
SCRIPTS = Path(__file__).parent / "scripts"


class CannotInstall(Exception):
    """pip could not make the environment; its last words."""


def interpreter() -> Path:
    """The environment's python; makes it if needed. Of several processes one makes it and the others wait."""
    done = VENV / f".installed-{zlib.crc32(REQUIREMENTS.read_bytes() + sys.version.encode()):08x}"
    python = VENV / "bin" / "python"
    with open(VENV.with_name(VENV.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _command([sys.executable, "-m", "venv", "--clear", str(VENV)])
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
            _command([*pip, "-r", str(REQUIREMENTS)])
            done.touch()
    return python


def run_script(name: str, jobs: Any, folder: Path) -> None:
    """scripts/NAME with a file of `jobs` (JSON) in the environment. RuntimeError with what it said if it fails."""
    file = folder / f"{Path(name).stem}.json"
    file.write_text(json.dumps(jobs), encoding="utf-8")
    # without this checkout on the path, so that only what was exported can help
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables = {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(interpreter()), str(SCRIPTS / name), str(file)]
    result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{name} ended with {result.returncode}:\n{result.stdout}{result.stderr}"[-6000:])


def _command(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CannotInstall(f"{' '.join(command)}: {(result.stderr or result.stdout).strip()[-2000:]}")


if __name__ == "__main__":
    print(interpreter())
