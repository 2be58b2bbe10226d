"""Time, size and memory of a whole checkpoint (UNet, EMA, both Adam moments), saved and loaded by the real trainer.

    python -m tests.benchmarks.checkpoint_cost [--unet configs/unet/sd15.json] [--folder FOLDER] [--quick]

Peak memory is what the process held at most above what it holds without saving or loading; what loading puts into the
optimizer counts as held. Saving ends when the disk has the data; loading includes reading it all once for its
checksums. At the size of SD 1.5 a process takes 15 GB and the checkpoint 13.8 GB of `--folder` (default: a temporary
folder). `paddle.save`, of the same state, is for comparison.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ppsd import compat  # isort: skip  # noqa: F401  before paddle

import paddle
from paddlenlp.utils.log import logger as paddlenlp_logger
from ppdiffusers import DDIMScheduler

from ppsd.trainers.building import build_trainer
from ppsd.trainers.optimizer_state import create_accumulators
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.resuming import choose_checkpoint
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import write_parts
from tests.tiny import SCHEDULER_CONFIG, tiny_text_encoder, tiny_tokenizer, tiny_vae

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "configs" / "unet" / "tiny.json"


class Cost(NamedTuple):
    """peak: bytes above what was held before or after, whichever is more."""

    seconds: float
    peak: int


def memory(field: str) -> int:
    """Bytes; VmRSS now, VmHWM at most since the last `cost` began."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{field}:")) * 1024


def cost(work: Callable[[], Any]) -> Cost:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: proc(5)
    before, begin = memory("VmRSS"), time.perf_counter()
    work()
    seconds, peak = time.perf_counter() - begin, memory("VmHWM")
    gc.collect()
    return Cost(seconds, max(0, peak - max(before, memory("VmRSS"))))


def make_trainer(folder: Path, unet: Path) -> StableDiffusionTrainer:
    """From random weights, with an optimizer that has taken no step. What is not saved is tiny."""
    if not (folder / "vae").is_dir():
        write_frozen_parts(folder, json.loads(unet.read_text())["cross_attention_dim"])
    flags = f"""--pretrained_model_name_or_path {folder} --unet_name_or_path {unet} --resolution 64
        --file_list {folder / "set.filelist.list"} --output_dir {folder / "out"} --max_steps 10 --use_ema True
        --per_device_train_batch_size 1 --report_to none""".split()
    trainer = build_trainer(StableDiffusionTrainer, parse_run(None, flags))
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    return trainer


def write_frozen_parts(folder: Path, width: int) -> None:
    """And data."""
    tiny_vae().save_pretrained(str(folder / "vae"))
    tiny_text_encoder(hidden_size=width).save_pretrained(str(folder / "text_encoder"), safe_serialization=True)
    tiny_tokenizer().save_pretrained(str(folder / "tokenizer"))
    DDIMScheduler(**SCHEDULER_CONFIG).save_pretrained(str(folder / "scheduler"))
    write_parts(folder, [8], 72, 72)


def give_moments(trainer: StableDiffusionTrainer) -> None:
    """What the optimizer holds from its first step on."""
    for parameter in trainer.optimizer._parameter_list:
        create_accumulators(trainer.optimizer, parameter)


def save(folder: Path, unet: Path) -> dict[str, Cost]:
    trainer = make_trainer(folder, unet)
    give_moments(trainer)
    trainer.loader = trainer.make_loader(None)
    trainer.state.global_step = 1
    return {"saving": cost(lambda: trainer._save_checkpoint(trainer.step))}


def load(folder: Path, unet: Path) -> dict[str, Cost]:
    trainer, checkpoint = make_trainer(folder, unet), str(folder / "out" / "checkpoint-1")
    checking = cost(lambda: choose_checkpoint(str(folder / "out"), "latest", overwrite=False))

    def restore() -> None:
        trainer._load_from_checkpoint(checkpoint)
        trainer._load_optimizer_and_scheduler(checkpoint)

    return {"its checksums": checking, "loading": cost(restore)}


def paddle_save(folder: Path, unet: Path) -> dict[str, Cost]:
    trainer = make_trainer(folder, unet)
    give_moments(trainer)
    assert trainer.ema is not None
    states = {"unet": trainer.bundle.unet.state_dict(), "ema": trainer.ema.average}
    states["optimizer"] = trainer.optimizer.state_dict()

    def write() -> None:
        for name, state in states.items():
            paddle.save(state, str(folder / "paddle" / name))

    return {"paddle.save": cost(write)}


STAGES: dict[str, Callable[[Path, Path], dict[str, Cost]]] = {"save": save, "load": load, "paddle": paddle_save}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", type=Path, default=ROOT / "configs" / "unet" / "sd15.json")
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="a UNet of a million weights")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=["save", "load"], help="each its own process")
    parser.add_argument("--measure", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    unet = QUICK if args.quick else args.unet
    if args.measure:
        paddlenlp_logger.set_level("ERROR")
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, this process ends and no other
        print(json.dumps({name: list(found) for name, found in STAGES[args.measure](args.folder, unet).items()}))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(f"{'':<16}{'seconds':>9}{'GB':>8}{'MB/s':>8}{'peak above, MB':>16}")
        for stage in args.stages:
            command = [sys.executable, "-m", "tests.benchmarks.checkpoint_cost", "--measure", stage]
            command += ["--unet", str(unet), "--folder", folder]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            place = Path(folder) / ("paddle" if stage == "paddle" else "out/checkpoint-1")
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            for name, (seconds, peak) in json.loads(answer.splitlines()[-1]).items():
                print(f"{name:<16}{seconds:>9.1f}{size / 1e9:>8.2f}{size / 1e6 / seconds:>8.0f}{peak / 1e6:>16.0f}")


if __name__ == "__main__":
    main()
