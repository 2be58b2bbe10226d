"""What StableDiffusionTrainer costs over a loop of a dozen lines that trains the same model on the same data.

    python -m tests.benchmarks.trainer_overhead [--blocks 20] [--quick]

Both train in one process, a step of one after a step of the other, so that they see the same machine; ratios are
medians over blocks of ten steps of each. The bare loop has the real data stream, forward and backward pass, AdamW with
clipping, a learning-rate schedule and a look at the loss every ten steps, and nothing else: no repeatable randomness,
no guards, no meters, no EMA.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from ppsd import compat  # isort: skip

import paddle
from paddle.nn.functional import mse_loss
from paddle.optimizer import AdamW
from paddle.optimizer.lr import LambdaDecay
from paddlenlp.trainer import TrainerCallback
from paddlenlp.utils.log import logger as paddlenlp_logger
from ppdiffusers import DDPMScheduler

from ppsd.trainers.building import build_trainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.run import Run
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import write_parts
from tests.tiny import UNET_CONFIG, tiny_pipeline_dir

ROOT = Path(__file__).parents[2]
BLOCK = 10  # steps, and the interval of logging
GOAL = 1.03


class BareLoop:
    """The loop that a careful user would write; every call of `run` makes one step."""

    def __init__(self, run: Run) -> None:
        parts, args = build_trainer(StableDiffusionTrainer, run), run.args
        self.vae, self.text_encoder, self.unet = parts.bundle.vae, parts.bundle.text_encoder, parts.bundle.unet
        self.scaling = self.vae.config.scaling_factor
        self.scheduler = DDPMScheduler.from_config(parts.bundle.scheduler_config, prediction_type="epsilon")
        self.batches = _endless(parts.make_loader(None))
        self.rate = LambdaDecay(args.learning_rate, lambda step: 1 - step / args.max_steps)
        self.optimizer = AdamW(
            self.rate,
            parameters=self.unet.parameters(),
            weight_decay=args.weight_decay,
            apply_decay_param_fun=lambda name: ".b_" not in name,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(args.max_grad_norm),
        )
        self.unet.train()
        self.total, self.steps = paddle.zeros([]), 0
        self.losses: list[float] = []

    def run(self) -> None:
        loss = self._loss(next(self.batches))
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.rate.step()
        self.total += loss.detach()
        self.steps += 1
        if self.steps % BLOCK == 0:
            self.losses.append(self.total.item() / BLOCK)
            self.total.zero_()

    def _loss(self, batch: Any) -> paddle.Tensor:
        with paddle.no_grad():
            pixels = batch["pixels"].astype("float32") / 127.5 - 1
            latents = self.vae.encode(pixels).latent_dist.sample() * self.scaling
            hidden = self.text_encoder(batch["input_ids"])[0]
            noise = paddle.randn(latents.shape)
            timesteps = paddle.randint(0, 1000, [len(latents)])
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return mse_loss(self.unet(noisy, timesteps, encoder_hidden_states=hidden).sample, noise)


class Clock:
    """Wall and CPU seconds of single steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"wall": [], "cpu": []}

    def start(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds["wall"].append(time.perf_counter() - self._begin[0])
        self.seconds["cpu"].append(time.process_time() - self._begin[1])

    def blocks(self, kind: str) -> list[float]:
        """Sums over `BLOCK` steps; the first block, which warms up, is left out."""
        steps = self.seconds[kind]
        return [sum(steps[start : start + BLOCK]) for start in range(BLOCK, len(steps) - BLOCK + 1, BLOCK)]


class Interleave(TrainerCallback):
    """After each step of the trainer, one of the bare loop. What the trainer does up to its next is the trainer's."""

    def __init__(self, bare: BareLoop) -> None:
        self.bare, self.ours, self.theirs = bare, Clock(), Clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > 1:
            self.ours.stop()
        self.theirs.start()
        self.bare.run()
        self.theirs.stop()
        self.ours.start()


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def measure(folder: Path, inputs: dict[str, Any], blocks: int) -> Interleave:
    values = {
        **inputs,
        "output_dir": folder / "out",
        "max_steps": BLOCK * (blocks + 1) + 1,
        "logging_steps": BLOCK,
        "save_strategy": "no",
        "image_logging_steps": -1,
        "prediction_type": "epsilon",
        "report_to": "none",
        "disable_tqdm": True,
        "caption_dropout_rate": 0,
        "check_data": "off",
    }
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    run = parse_run(None, flags)
    interleave = Interleave(BareLoop(run))
    trainer = build_trainer(StableDiffusionTrainer, run)
    trainer.add_callback(interleave)
    trainer.train()
    return interleave


def sizes(folder: Path) -> dict[str, dict[str, Any]]:
    """What is trained, by the name of its row."""
    config = folder / "unet.json"
    config.write_text(json.dumps(UNET_CONFIG), encoding="utf-8")
    shared = {"file_list": write_parts(folder, [100, 100], 72, 72), "resolution": 64}
    demo = {
        **shared,
        "pretrained_model_name_or_path": ROOT / "examples" / "stable_diffusion" / "tiny_pipeline",
        "unet_name_or_path": ROOT / "configs" / "unet" / "tiny.json",
        "per_device_train_batch_size": 16,
    }
    tests = {
        **shared,
        "pretrained_model_name_or_path": tiny_pipeline_dir(folder),
        "unet_name_or_path": config,
        "per_device_train_batch_size": 4,
    }
    return {"the demo": demo, "the demo, --use_ema": {**demo, "use_ema": True}, "the tests' tiny model": tests}


def ratio(found: Interleave, kind: str) -> float:
    """Of the trainer's time to the bare loop's."""
    return median(mine / its for mine, its in zip(found.ours.blocks(kind), found.theirs.blocks(kind)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=20, help="timed blocks of ten steps of each of the two")
    parser.add_argument("--quick", action="store_true", help="5 blocks")
    args = parser.parse_args()
    compat.apply()
    paddlenlp_logger.set_level("ERROR")
    print(f"{'model':<24}{'bare ms':>9}{'trainer ms':>12}{'wall':>8}{'CPU':>8}")
    with tempfile.TemporaryDirectory() as name:
        for row, inputs in sizes(Path(name)).items():
            found = measure(Path(name), inputs, 5 if args.quick else args.blocks)
            bare, ours = (1000 * median(clock.blocks("wall")) / BLOCK for clock in (found.theirs, found.ours))
            wall, cpu = (ratio(found, kind) for kind in ("wall", "cpu"))
            print(f"{row:<24}{bare:>9.1f}{ours:>12.1f}{wall:>8.3f}{cpu:>8.3f}", flush=True)
    print(f"ratios: median over the blocks of trainer / bare; goal for the demo: {GOAL}")


if __name__ == "__main__":
    main()
