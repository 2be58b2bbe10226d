"""Training on the demo's model with a method's own script, as a user would, and drawing with the result."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

ROOT = Path(__file__).parents[2]
BASE = ROOT / "output" / "demo" / "run"

COMMON = """--resolution 64 --per_device_train_batch_size 16 --prediction_type v_prediction --snr_gamma 5
--adam_beta2 0.99 --lr_scheduler_type cosine --use_ema --logging_steps 50 --save_strategy no --image_logging_steps -1
--report_to none --disable_tqdm True --num_inference_steps 30 --guidance_scale 3"""


def parser(doc: str, max_steps: Optional[int], learning_rate: Optional[float]) -> argparse.ArgumentParser:
    """What these benchmarks have in common."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--base", type=Path, default=BASE, help="What examples/stable_diffusion/train.sh has trained.")
    made.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks", help="For data, runs and grids.")
    made.add_argument("--max_steps", type=int, default=max_steps)
    made.add_argument("--learning_rate", type=float, default=learning_rate)
    made.add_argument("--num_samples", type=int, default=100)
    return made


def require_base(base: Path) -> None:
    if not (base / "model_index.json").is_file():
        raise SystemExit(f"{base} is not there: run `sh examples/stable_diffusion/train.sh` first (8 to 14 minutes)")


def make_data(kind: str, count: int, folder: Path) -> Path:
    """An image folder of the demo's kinds."""
    tool = [sys.executable, str(ROOT / "tools" / "make_demo_data.py"), "--kind", kind]
    subprocess.run([*tool, "--num_images", str(count), "--output_path", str(folder)], check=True, capture_output=True)
    return folder


class Trained(NamedTuple):
    """What a run took. seconds: all of it; peak_bytes: of resident memory; log: what it printed; cpu_seconds: what its
    processes computed, which a machine that is shared does not lengthen."""

    seconds: float
    peak_bytes: int
    log: str
    cpu_seconds: float


def train(script: str, output: Path, flags: Sequence[Any]) -> float:
    """Seconds that the method's script takes. Raises RuntimeError with the end of its log when it fails."""
    return train_measured(script, output, flags).seconds


def train_measured(script: str, output: Path, flags: Sequence[Any]) -> Trained:
    """The same with what else it takes, in a process of its own."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / script), "--output_dir", str(output)]
    command += ["--overwrite_output_dir", *COMMON.split(), *map(str, flags)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    started, peak, computed = time.perf_counter(), 0, _children_seconds()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _peak_bytes(process.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        printed.seek(0)
        log = printed.read()
    output.mkdir(parents=True, exist_ok=True)
    (output / "log.txt").write_text(log)
    if process.returncode:
        raise RuntimeError(f"{script} ended with code {process.returncode}:\n{log[-3000:]}")
    return Trained(seconds, peak, log, _children_seconds() - computed)


def _children_seconds() -> float:
    """Of all cores, by the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak_bytes(pid: int) -> int:
    """Resident memory at most until now; 0 for a process that has ended. Unlike ru_maxrss it has nothing of ours."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), default=0)


def draw(
    pipeline: Path, prompts: Sequence[str], seed: int, grid: Optional[Path] = None, lora: Optional[Path] = None
) -> np.ndarray:
    """uint8 [N,H,W,3], one picture a prompt; `grid` is a PNG of them all, `lora` a file on top of the pipeline."""
    from ppsd.interop.lora.attaching import LoraSwitch, models_of
    from ppsd.sampling.grid import image_grid, save_png
    from ppsd.sampling.pipeline import generate, load_pipeline

    pipe = load_pipeline(str(pipeline))
    if lora is not None:
        LoraSwitch(models_of(pipe)).use([(str(lora), 1.0)], fuse=True)
    images = generate(pipe, prompts, guidance_scale=3.0, num_inference_steps=30, seed=seed, batch_size=20)
    if grid is not None:
        save_png(grid, image_grid(images, columns=20))
    return images
