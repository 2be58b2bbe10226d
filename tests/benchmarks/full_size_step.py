"""Time and peak memory of training steps of a full-size model, from random weights, through the real trainer.

    python -m tests.benchmarks.full_size_step --unet configs/unet/sd15.json --resolution 256 --steps 3

VAE and text encoder have the sizes of Stable Diffusion 1.5 (2.1 where the UNet's cross_attention_dim is 1024).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import ppsd.compat  # noqa: F401

import numpy as np
from paddlenlp.trainer import TrainerCallback
from ppdiffusers import AutoencoderKL, DDPMScheduler
from ppdiffusers.transformers import CLIPTextConfig, CLIPTextModel

from ppsd.trainers.building import build_trainer
from ppsd.trainers.console import show_log
from ppsd.trainers.meter import peak_memory_gb
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import write_parts
from tests.tiny import tiny_tokenizer

VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXT: dict[int, dict[str, Any]] = {
    768: {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    1024: {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}


class Clock(TrainerCallback):
    """Seconds of every optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def write_frozen_parts(folder: Path, width: int) -> None:
    AutoencoderKL(**VAE).save_pretrained(str(folder / "vae"))
    CLIPTextModel(CLIPTextConfig(**TEXT[width])).save_pretrained(str(folder / "text_encoder"), safe_serialization=True)
    tiny_tokenizer().save_pretrained(str(folder / "tokenizer"))
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.save_pretrained(str(folder / "scheduler"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", required=True)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("flags", nargs="*", help="more flags of the trainer, after --")
    args = parser.parse_args()
    show_log()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frozen_parts(folder, json.loads(Path(args.unet).read_text())["cross_attention_dim"])
        file_list = write_parts(folder, [8], args.resolution + 32, args.resolution + 32)
        flags = f"""--pretrained_model_name_or_path {folder} --unet_name_or_path {args.unet} --file_list {file_list}
            --resolution {args.resolution} --per_device_train_batch_size {args.batch_size} --max_steps {args.steps}
            --output_dir {folder / "out"} --save_strategy no --image_logging_steps -1 --logging_steps 1
            --report_to none --disable_tqdm True""".split()
        start = time.perf_counter()
        trainer = build_trainer(StableDiffusionTrainer, parse_run(None, flags + args.flags))
        built, clock = time.perf_counter() - start, Clock()
        trainer.add_callback(clock)
        trainer.train()
    millions = sum(int(np.prod(p.shape)) for p in trainer.bundle.unet.parameters()) / 1e6
    print(f"{'UNet':>12} {'resolution':>10} {'batch':>5} {'build s':>8} {'first s':>8} {'step s':>8} {'peak GB':>8}")
    print(
        f"{millions:>10.0f} M {args.resolution:>10} {args.batch_size:>5} {built:>8.1f} {clock.seconds[0]:>8.1f}"
        f" {np.median(clock.seconds[1:] or clock.seconds):>8.1f} {peak_memory_gb():>8.1f}"
    )


if __name__ == "__main__":
    main()
