"""Everything periodic: EMA, previews, the last save."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Callable, Optional

from ppsd.compat import first_alone

import numpy as np
import paddle
from paddlenlp.trainer import TrainerCallback
from tqdm import tqdm

from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.models.latents import decode_mean, reconstruct
from ppsd.sampling.grid import image_grid, save_png
from ppsd.sampling.pipeline import build_pipeline, generate
from ppsd.trainers.checkpoint import PROMPTS
from ppsd.trainers.heart import Heart, Phase

logger = logging.getLogger(__name__)


class EMACallback(TrainerCallback):
    """After each optimizer step, one update of the average. applied: whether the step has changed the weights."""

    def __init__(self, ema: EMA, applied: Callable[[], bool]) -> None:
        self.ema, self.applied = ema, applied

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.applied():
            self.ema.update()


class ProgressCallback(TrainerCallback):
    """A progress bar (unless `--disable_tqdm`), and every `logging_steps` one line of what matters."""

    def __init__(self, bar: bool) -> None:
        self.bar = bar
        self.tqdm: Optional[tqdm] = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_local_process_zero:
            self.tqdm = tqdm(total=state.max_steps, initial=state.global_step, desc="training", disable=not self.bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tqdm is not None:
            self.tqdm.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.tqdm is None or "loss" not in (logs or {}):
            return
        self.tqdm.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        logger.info("step %d/%d %s", state.global_step, state.max_steps, one_line(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tqdm is not None:
            self.tqdm.close()


def one_line(logs: Mapping[str, float]) -> str:
    """The loss and the figures that tell whether the machine is used well."""
    parts = [
        f"loss {logs['loss']:.5f}",
        f"lr {logs['learning_rate']:.3g}",
        f"gradient norm {logs.get('grad_norm', math.nan):.3g}",
        f"{logs.get('interval_samples_per_second', 0):.1f} samples/s",
        f"waiting for data {logs.get('data_wait_share', 0):.0%}",
        f"memory {logs.get('peak_memory_gb', 0):.1f} GB",
    ]
    if "peak_gpu_memory_gb" in logs:
        parts.append(f"GPU {logs['peak_gpu_memory_gb']:.1f} GB")
    return ", ".join(parts)


class LastStepCallback(TrainerCallback):
    """The last step is always logged and saved, so that a finished run is recognised as finished."""

    logged = -1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_save = str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.logged = state.global_step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Under --logging_strategy epoch: what was logged by its step has no steps left to take the mean of."""
        if self.logged == state.global_step:
            control.should_log = False


class PreviewCallback(TrainerCallback):
    """Every `image_logging_steps` and at the end: the same prompts from the same noise, and what the VAE keeps.

    PNG grids go to `output_dir/previews/`, and to VisualDL where `writer()` gives one. Only the first process draws;
    the others wait, for longer than an exchange of gradients would.
    """

    def __init__(
        self,
        bundle: Bundle,
        prediction_type: str,
        ema: Optional[EMA],
        precision: Callable[[], AbstractContextManager],
        writer: Callable[[], Any],
        num_inference_steps: int,
        heart: Heart,
    ) -> None:
        self.heart = heart
        self.bundle, self.ema, self.precision, self.writer = bundle, ema, precision, writer
        self.pipe = build_pipeline(bundle, prediction_type)
        self.prompts: Sequence[str] = ()
        self.first: Optional[Mapping[str, paddle.Tensor]] = None
        self.num_inference_steps = num_inference_steps

    def remember(self, args: Any, inputs: Mapping[str, Any]) -> None:
        """The first batch: its pixels or moments to reconstruct, its captions to draw where no prompts are given.

        `previews/prompts.txt` keeps those captions, so that a continued run draws them too.
        """
        name = "moments" if "moments" in inputs else "pixels"
        images, input_ids = inputs[name], inputs["input_ids"]
        count = 4 if args.resolution > 256 else 8
        self.first = {name: images[:count]}
        if args.validation_prompts:
            self.prompts = args.validation_prompts
            return
        file = Path(args.output_dir, PROMPTS)
        if not file.is_file():
            decode = self.bundle.tokenizer.decode
            captions = [" ".join(decode(row, skip_special_tokens=True).split()) for row in input_ids[:count].tolist()]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
        self.prompts = file.read_text(encoding="utf-8").split("\n")[:-1]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = args.image_logging_steps
        due = every > 0 and (state.global_step % every == 0 or state.global_step >= state.max_steps)
        if due:
            with self.heart.during(Phase.PREVIEWS):
                first_alone(lambda: self.draw(args, state.global_step))

    @paddle.no_grad()
    def draw(self, args: Any, step: int) -> None:
        """Write `previews/step-N.png` (and `reconstruction.png`)."""
        folder = Path(args.output_dir, "previews")
        alive = self.bundle.unet.register_forward_post_hook(lambda *_: self.heart.beat(Phase.PREVIEWS))
        with self.precision(), self.ema.applied() if self.ema else nullcontext():
            pictures = generate(
                self.pipe,
                self.prompts,
                guidance_scale=args.guidance_scale,
                num_inference_steps=self.num_inference_steps,
                seed=args.seed,
                height=args.resolution,
                width=args.resolution,
            )
        alive.remove()
        with self.precision():
            kept, columns = self._kept()
        grids = {
            "previews": (folder / f"step-{step:07d}.png", image_grid(pictures, captions=self.prompts)),
            "reconstruction": (folder / "reconstruction.png", image_grid(kept, columns=columns)),
        }
        for tag, (file, grid) in grids.items():
            save_png(file, grid)
            if self.writer() is not None:
                self.writer().add_image(tag, grid, step, dataformats="HWC")
        logger.info("previews: %s", os.fspath(grids["previews"][0]))

    def _kept(self) -> tuple[np.ndarray, int]:
        """Pictures uint8 [N,H,W,3] and how many in a row: the first batch's, and below what the VAE keeps of them.

        Of cached latents the pictures themselves are not there.
        """
        assert self.first is not None
        if "moments" in self.first:
            kept, originals = decode_mean(self.bundle.vae, self.first["moments"]), []
        else:
            kept = reconstruct(self.bundle.vae, self.first["pixels"])
            originals = [self.first["pixels"].transpose([0, 2, 3, 1]).numpy()]
        pictures = (kept.transpose([0, 2, 3, 1]).numpy() * 255).round().astype("uint8")
        return np.concatenate([*originals, pictures]), len(pictures)
