"""Inpainting (Stable Diffusion's own, arXiv 2112.10752, 4.5): the UNet also sees a mask and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import paddle

from ppsd.diffusion.draws import Draws
from ppsd.diffusion.objective import Denoise
from ppsd.models.bundle import Bundle
from ppsd.models.conditions import inpaint_concat
from ppsd.models.denoiser import ConcatDenoiser
from ppsd.models.widening import INPAINTING
from ppsd.trainers.any_data import AnyDataTrainer
from ppsd.trainers.arguments.inpainting import InpaintingArguments
from ppsd.trainers.preview_conditions import Files
from ppsd.trainers.run import Run
from ppsd.types import Condition


class InpaintingTrainer(AnyDataTrainer):
    """A UNet with 9 input channels, made of one with 4 where need be. Masks are drawn, or come from a column."""

    own_arguments = InpaintingArguments
    defaults: Mapping[str, Any] = {"learning_rate": 1e-5, "lr_scheduler_type": "constant", "weight_decay": 0.01}
    conditions = ("mask",)
    preview_conditions = ("pixels", "mask")
    concat_channels = INPAINTING
    needs_pixels = True

    @classmethod
    def check(cls, run: Run) -> None:
        super().check(run)
        run.own.check_conditions(cls.conditions, run.data.cache_latents, run.args.dataloader_num_workers)
        if run.data.cache_latents:
            raise ValueError("--cache_latents: pictures are masked anew each time, so latents are not enough")

    @classmethod
    def validation_files(cls, run: Run) -> list[Files]:
        own = run.own
        return [
            Files("validation_image", "pixels", own.validation_image),
            Files("validation_mask", "mask", own.validation_mask),
        ]

    @classmethod
    def denoiser(cls, run: Run, bundle: Bundle) -> Denoise:
        return ConcatDenoiser(bundle.unet)

    @staticmethod
    def told(condition: Condition, bundle: Bundle, draws: Draws, batch: Mapping[str, paddle.Tensor]) -> Condition:
        assert draws.masked_noise is not None
        concat = inpaint_concat(bundle.vae, batch["pixels"], batch["mask"], draws.masked_noise)
        return replace(condition, concat=concat)
