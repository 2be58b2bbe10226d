"""ControlNets (arXiv 2302.05543), ControlNets of adapters, and T2I-Adapters (arXiv 2302.08453)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ppsd.adapters.control_lora import whole_controlnet
from ppsd.diffusion.draws import Draws
from ppsd.diffusion.objective import Denoise
from ppsd.formats.safetensors_file import Digest
from ppsd.models.bundle import Bundle
from ppsd.models.conditions import control_of
from ppsd.models.controlnet import trained_layers
from ppsd.models.denoiser import ControlDenoiser, T2IAdapterDenoiser
from ppsd.sampling.control import build_control_pipeline
from ppsd.sampling.text import write_text_settings
from ppsd.trainers.arguments.controlnet import ControlNetArguments
from ppsd.trainers.control import check_control, make_control
from ppsd.trainers.exporting import control_bytes, write_control
from ppsd.trainers.preview_conditions import Files
from ppsd.trainers.run import Run
from ppsd.trainers.trainer import StableDiffusionTrainer
from ppsd.types import Condition


class ControlNetTrainer(StableDiffusionTrainer):
    """What is trained is `bundle.controlnet`, and with --sd_locked False the UNet's decoder, too.

    With --network_module the ControlNet is adapters beside a copy of the UNet's encoder, which itself stays as it is.
    """

    own_arguments = ControlNetArguments
    defaults: Mapping[str, Any] = {  # of diffusers' script
        "caption_dropout_rate": 0.0,
        "learning_rate": 5e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "per_device_train_batch_size": 4,
    }
    conditions = ("conditioning",)
    preview_conditions = ("conditioning",)

    @classmethod
    def check(cls, run: Run) -> None:
        run.own.check()
        run.own.check_conditions(cls.conditions, run.data.cache_latents, run.args.dataloader_num_workers)
        check_control(run)

    @classmethod
    def trained_names(cls, run: Run) -> tuple[str, ...]:
        return ("controlnet",) if run.own.sd_locked else ("controlnet", "unet")

    @classmethod
    def adapt(cls, run: Run, bundle: Bundle) -> None:
        bundle.controlnet = make_control(run, bundle)

    @classmethod
    def learning_layers(cls, run: Run, bundle: Bundle) -> Iterable[nn.Layer]:
        return trained_layers(bundle, run.own.sd_locked, run.own.only_mid_control)

    @classmethod
    def validation_files(cls, run: Run) -> list[Files]:
        return [Files("validation_image", "conditioning", run.own.validation_image)]

    @classmethod
    def denoiser(cls, run: Run, bundle: Bundle) -> Denoise:
        assert bundle.controlnet is not None
        if run.own.control_type == "t2i_adapter":
            return T2IAdapterDenoiser(bundle.unet, bundle.controlnet)
        return ControlDenoiser(bundle.unet, bundle.controlnet, run.own.only_mid_control)

    @staticmethod
    def told(condition: Condition, bundle: Bundle, draws: Draws, batch: Mapping[str, paddle.Tensor]) -> Condition:
        return replace(condition, control=control_of(batch["conditioning"]))

    def pipeline(self) -> Any:
        nets = [whole_controlnet(self.bundle)]
        return build_control_pipeline(self.bundle, nets, self.step.objective.prediction_type, self.step.text)

    @property
    def exports_pipeline(self) -> bool:
        return not self.run.own.sd_locked

    @property
    def exported(self) -> str:
        return "pipeline" if self.exports_pipeline else self.run.own.control_type

    def write_export(self, folder: Path) -> dict[Path, Digest]:
        """The ControlNet or T2I-Adapter alone, as diffusers' script, while the UNet is the base's."""
        if self.exports_pipeline:
            return super().write_export(folder)
        write_text_settings(folder, self.step.text)
        return write_control(folder, self.bundle, self.ema, self._masters())

    def export_bytes(self) -> int:
        return super().export_bytes() if self.exports_pipeline else control_bytes(self.bundle)
