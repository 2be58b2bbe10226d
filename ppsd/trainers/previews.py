"""Pictures while training: the same prompts from the same noise, so that only the weights differ."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Callable, Optional

from ppsd.compat import first_alone

import numpy as np
import paddle
from paddlenlp.trainer import TrainerCallback

from ppsd.models.ema import EMA
from ppsd.models.latents import decode_mean, reconstruct
from ppsd.sampling.conditioned import Told, generate_told, grid_beside
from ppsd.sampling.grid import image_grid, save_png
from ppsd.sampling.prompts import Prompt, draw_prompts
from ppsd.trainers.checkpoint import CONDITIONS, PROMPTS
from ppsd.trainers.due import Every
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.preview_conditions import of_batch

logger = logging.getLogger(__name__)


class PreviewCallback(TrainerCallback):
    """When `every` says and at the end: pictures of the prompts, and what the VAE keeps of the first batch.

    pipe: of the networks that are trained. prompts, told: those of the flags; without any, the first batch's captions
    and its `conditions` (of Method.preview_conditions). What a picture was told stands left of it.

    PNG grids go to `output_dir/previews/`, and to VisualDL where `writer()` gives one. Only the first process draws;
    the others wait, for longer than an exchange of gradients would.
    """

    def __init__(
        self,
        pipe: Any,
        ema: Optional[EMA],
        precision: Callable[[], AbstractContextManager],
        writer: Callable[[], Any],
        num_inference_steps: int,
        heart: Heart,
        *,
        every: Every,
        prompts: Sequence[Prompt] = (),
        told: Optional[Told] = None,
        conditions: Sequence[str] = (),
    ) -> None:
        self.pipe, self.told, self.conditions = pipe, dict(told or {}), conditions
        self.ema, self.precision, self.writer, self.heart = ema, precision, writer, heart
        self.num_inference_steps, self.every, self.given = num_inference_steps, every, list(prompts)
        self.prompts: Sequence[str] = [prompt.text for prompt in self.given]
        self.first: Optional[Mapping[str, paddle.Tensor]] = None

    def look(self, args: Any, inputs: Mapping[str, Any]) -> None:
        """Called with every batch of the first process; keeps what is needed of the first one.

        `previews/prompts.txt` keeps its captions where they are drawn, so that a continued run draws them, too.
        """
        if self.first is not None or not self.every.ever:
            return
        name = "moments" if "moments" in inputs else "pixels"
        count = 4 if args.resolution > 256 else 8
        self.first = {name: inputs[name][:count]}
        if not self.given:
            file = Path(args.output_dir, PROMPTS)
            self.prompts = self._captions(file, inputs["input_ids"][:count])
            self.given = [Prompt(text) for text in self.prompts]
            if self.conditions:
                self.told = of_batch(self.conditions, inputs, count, Path(args.output_dir, CONDITIONS))

    def _captions(self, file: Path, input_ids: paddle.Tensor) -> list[str]:
        if not file.is_file():
            decode = self.pipe.tokenizer.decode
            captions = [" ".join(decode(row, skip_special_tokens=True).split()) for row in input_ids.tolist()]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
        return file.read_text(encoding="utf-8").split("\n")[:-1]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if self.every.ever and (self.every.due(step) or step >= state.max_steps):
            with self.heart.during(Phase.PREVIEWS):
                first_alone(lambda: self.draw(args, step))

    @paddle.no_grad()
    def draw(self, args: Any, step: int) -> None:
        """Write `previews/step-N.png` (and `reconstruction.png`)."""
        folder, count = Path(args.output_dir, "previews"), args.num_validation_images
        alive = self.pipe.unet.register_forward_post_hook(lambda *_: self.heart.beat(Phase.PREVIEWS))
        with self.precision(), self.ema.applied() if self.ema else nullcontext():
            pictures = draw_prompts(
                partial(generate_told, self.pipe, scales=(1.0,)),
                self.given,
                count,
                told=self.told,
                guidance_scale=args.guidance_scale,
                num_inference_steps=self.num_inference_steps,
                seed=args.seed,
                height=args.resolution,
                width=args.resolution,
            )
        alive.remove()
        with self.precision():
            kept, columns = self._kept()
        drawn = self._sheet(pictures)
        grids = {
            "previews": (folder / f"step-{step:07d}.png", drawn),
            "reconstruction": (folder / "reconstruction.png", image_grid(kept, columns=columns)),
        }
        for tag, (file, grid) in grids.items():
            save_png(file, grid)
            if self.writer() is not None:
                self.writer().add_image(tag, grid, step, dataformats="HWC")
        logger.info("previews: %s", os.fspath(grids["previews"][0]))

    def _sheet(self, pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Those of each prompt, or of several where there is but one of each; what was told is left of them."""
        tiles, count = list(chain(*pictures)), len(pictures[0])
        prompts = [prompt.text for prompt in self.given for _ in range(count)]
        if not self.told:
            return image_grid(tiles, columns=count if count > 1 else None, captions=prompts)
        told = {name: values.repeat(count, axis=0) for name, values in self.told.items()}
        return grid_beside([tiles], [""], prompts, told, count)

    def _kept(self) -> tuple[np.ndarray, int]:
        """Pictures uint8 [N,H,W,3] and how many in a row: the first batch's, and below what the VAE keeps of them.

        Of cached latents the pictures themselves are not there.
        """
        assert self.first is not None
        if "moments" in self.first:
            kept, originals = decode_mean(self.pipe.vae, self.first["moments"]), []
        else:
            kept = reconstruct(self.pipe.vae, self.first["pixels"])
            originals = [self.first["pixels"].transpose([0, 2, 3, 1]).numpy()]
        pictures = (kept.transpose([0, 2, 3, 1]).numpy() * 255).round().astype("uint8")
        return np.concatenate([*originals, pictures]), len(pictures)
