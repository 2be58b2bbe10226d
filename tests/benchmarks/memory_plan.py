"""Predicted and measured peak memory of two training steps on the CPU, float32, random weights, through the trainer.

    python -m tests.benchmarks.memory_plan --model tiny
    python -m tests.benchmarks.memory_plan --model sd15 --resolution 256 -- --optimizer_type Adafactor
    python -m tests.benchmarks.memory_plan --model tiny --method controlnet -- --sd_locked False

Measured: what paddle had allocated at most (its own count) and the resident memory of the process beyond what it had
before the models were built. sd15 with AdamW takes 16 GB. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import ppsd.compat  # noqa: F401

from paddle.base import core

from ppsd.models.footprint import read_footprint
from ppsd.trainers.building import build_trainer
from ppsd.trainers.console import show_log
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.memory_plan import GIB, plan
from ppsd.trainers.memory_recipe import settings_of
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.benchmarks.full_size_step import write_frozen_parts
from tests.images import write_parts

ROOT = Path(__file__).parents[2]
METHODS: dict[str, type[StableDiffusionTrainer]] = {
    "full": StableDiffusionTrainer,
    "controlnet": ControlNetTrainer,
    "inpainting": InpaintingTrainer,
}
TINY = ROOT / "examples" / "stable_diffusion" / "tiny_pipeline"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "sd15", "sd21"), default="tiny")
    parser.add_argument("--method", choices=METHODS, default="full")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="more flags of the trainer, after --")
    args = parser.parse_args()
    show_log()
    with tempfile.TemporaryDirectory() as name:
        folder, unet = Path(name), ROOT / "configs" / "unet" / f"{args.model}.json"
        pipeline = TINY if args.model == "tiny" else folder
        if pipeline == folder:
            write_frozen_parts(folder, json.loads(unet.read_text(encoding="utf-8"))["cross_attention_dim"])
        file_list = write_parts(folder, [8 * args.batch_size], args.resolution + 32, args.resolution + 32)
        flags = f"""--pretrained_model_name_or_path {pipeline} --unet_name_or_path {unet} --file_list {file_list}
            --resolution {args.resolution} --per_device_train_batch_size {args.batch_size} --max_steps 2
            --output_dir {folder / "out"} --save_strategy no --image_logging_steps -1 --logging_steps 1
            --report_to none --disable_tqdm True --dataloader_num_workers 0 --device cpu""".split()
        method = METHODS[args.method]
        flags += ["--annotator", "canny"] if args.method == "controlnet" else []
        run = parse_run(method.own_arguments, flags + args.flags, method.defaults)
        before, resident = core.host_memory_stat_current_value("Allocated", 0), resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        trainer = build_trainer(method, run)
        trainer.train()
        measured = core.host_memory_stat_peak_value("Allocated", 0) - before
        grown = resident_bytes("VmHWM") - resident
        model = read_footprint(args.model if args.model in ("sd15", "sd21") else str(with_unet(folder, unet)))
    settings = replace(settings_of(args.method, run), gpu=False)
    parts = plan(model, settings)
    for part, nbytes in parts.items():
        print(f"{part:<34} {nbytes / GIB:>9.4f} GiB")
    total = sum(parts.values())
    result = {"predicted": total, "allocated": measured, "resident": grown, "error": total / measured - 1}
    print(f"{'predicted':<34} {total / GIB:>9.4f} GiB")
    print(f"{'measured: allocated by paddle':<34} {measured / GIB:>9.4f} GiB, predicted {total / measured - 1:+.1%}")
    print(f"{'measured: resident':<34} {grown / GIB:>9.4f} GiB, predicted {total / grown - 1:+.1%}")
    print(json.dumps(result))


def with_unet(folder: Path, unet: Path) -> Path:
    """A pipeline folder of configs: the demo's frozen parts and `unet`."""
    made = folder / "configs"
    for part, file in (
        ("unet", unet),
        ("vae", TINY / "vae/config.json"),
        ("text_encoder", TINY / "text_encoder/config.json"),
    ):
        (made / part).mkdir(parents=True)
        (made / part / "config.json").write_bytes(file.read_bytes())
    return made


def resident_bytes(key: str) -> int:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
