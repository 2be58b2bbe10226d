"""Flags of ControlNets and T2I-Adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ppsd.trainers.arguments.conditions import ConditionArguments
from ppsd.trainers.arguments.flag import flag

KINDS = ("controlnet", "t2i_adapter")


@dataclass
class ControlNetArguments(ConditionArguments):
    """Flags of ControlNets and T2I-Adapters: what they begin with, and what is trained beside them."""

    controlnet_model_name_or_path: Optional[str] = flag(
        None,
        "ControlNet (or T2I-Adapter) to begin with: its folder, that of a run, checkpoint or pipeline, or a hub name."
        " Default: a new one, made of the UNet.",
    )
    control_type: str = flag("controlnet", "controlnet, or t2i_adapter: smaller, and run once a picture.")
    sd_locked: bool = flag(True, "False trains the UNet's decoder (all after its middle block) beside the ControlNet.")
    only_mid_control: bool = flag(False, "The ControlNet adds to the UNet's middle block alone.")
    conditioning_embedding_out_channels: Optional[list[int]] = flag(
        None,
        "Channels of a new ControlNet's layers that see the picture; each but the first halves its sides. Default:"
        " 16 32 96 256, which fewer and narrower ones make much faster where the UNet is small.",
    )
    validation_image: Optional[list[str]] = flag(
        None, "Conditioning images of the previews, one for each --validation_prompt (or one for all)."
    )

    def check(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work together."""
        if self.control_type not in KINDS:
            raise ValueError(f"--control_type is {self.control_type}; it must be {' or '.join(KINDS)}")
        if self.control_type == "t2i_adapter":
            for name, given in (("sd_locked False", not self.sd_locked), ("only_mid_control", self.only_mid_control)):
                if given:
                    raise ValueError(f"--{name} is of ControlNets, not of --control_type t2i_adapter; leave it out")
        channels = self.conditioning_embedding_out_channels
        if channels is not None and (self.controlnet_model_name_or_path or self.control_type == "t2i_adapter"):
            raise ValueError("--conditioning_embedding_out_channels is for a new ControlNet; leave it out")
        if channels is not None and min(channels) < 1:
            raise ValueError(f"--conditioning_embedding_out_channels has {min(channels)}; each must be at least 1")
