"""Depth to image (as Stable Diffusion 2's depth model): the UNet also sees how near everything is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import paddle

from ppsd.diffusion.draws import Draws
from ppsd.diffusion.objective import Denoise
from ppsd.models.bundle import Bundle
from ppsd.models.conditions import depth_concat
from ppsd.models.denoiser import ConcatDenoiser
from ppsd.models.widening import DEPTH
from ppsd.trainers.arguments.inpainting import DepthArguments
from ppsd.trainers.preview_conditions import Files
from ppsd.trainers.run import Run
from ppsd.trainers.trainer import StableDiffusionTrainer
from ppsd.types import Condition


class DepthTrainer(StableDiffusionTrainer):
    """A UNet with 5 input channels, made of one with 4 where need be."""

    own_arguments = DepthArguments
    defaults: Mapping[str, Any] = {"learning_rate": 1e-5, "lr_scheduler_type": "constant", "weight_decay": 0.01}
    conditions = ("depth",)
    preview_conditions = ("depth",)
    concat_channels = DEPTH

    @classmethod
    def check(cls, run: Run) -> None:
        run.own.check_conditions(cls.conditions, run.data.cache_latents, run.args.dataloader_num_workers)

    @classmethod
    def validation_files(cls, run: Run) -> list[Files]:
        return [Files("validation_depth", "depth", run.own.validation_depth)]

    @classmethod
    def denoiser(cls, run: Run, bundle: Bundle) -> Denoise:
        return ConcatDenoiser(bundle.unet)

    @staticmethod
    def told(condition: Condition, bundle: Bundle, draws: Draws, batch: Mapping[str, paddle.Tensor]) -> Condition:
        return replace(condition, concat=depth_concat(batch["depth"], draws.noise.shape[2:]))
