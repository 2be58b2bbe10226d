"""What of a run's flags its memory depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ppsd.models.controlnet import embedding_channels

METHODS = ("full", "dreambooth", "textual_inversion", "lora", "controlnet", "inpainting", "depth")
PRIORS = ("dreambooth", "lora", "inpainting")
"""Methods that can have --with_prior_preservation."""


@dataclass(frozen=True)
class Settings:
    """Of a run; named as the flags are. precision: float32, O1 or O2 (of --bf16). gpu: False on the CPU.

    network_dim: of --network_module lora, whose adapters are beside the linear layers of attention and MLPs; --method
    lora has it in any case. control_type, sd_locked, conditioning_embedding_out_channels: of --method controlnet.
    """

    method: str = "full"
    resolution: int = 512
    batch_size: int = 1
    optimizer_type: str = "AdamW"
    precision: str = "float32"
    use_ema: bool = False
    train_text_encoder: bool = False
    with_prior_preservation: bool = False
    recompute: bool = False
    efficient_attention: bool = False
    half_frozen: bool = False
    network_module: Optional[str] = None
    network_dim: int = 4
    control_type: str = "controlnet"
    sd_locked: bool = True
    conditioning_embedding_out_channels: Optional[tuple[int, ...]] = None
    max_token_length: int = 75
    vae_slicing: bool = False
    vae_tiling: bool = False
    cached: bool = False
    gpu: bool = True

    @property
    def samples(self) -> int:
        """In one forward pass: an instance's and a class's for each with prior preservation."""
        return self.batch_size * (2 if self.with_prior_preservation else 1)

    @property
    def tokens(self) -> int:
        """Of a caption, as the UNet gets them: with both ends."""
        return self.max_token_length + 2

    @property
    def adapts(self) -> bool:
        return self.method == "lora" or self.network_module is not None

    @property
    def controls(self) -> bool:
        return self.method == "controlnet"

    @property
    def trains_text(self) -> bool:
        """All of it."""
        return self.train_text_encoder and not self.adapts and self.method != "textual_inversion"

    @property
    def small(self) -> bool:
        """Whether what is trained is small, float32, and beside the models."""
        return self.adapts or self.method == "textual_inversion"

    def embedding_channels(self, vae_scale_factor: int) -> tuple[int, ...]:
        """Of a ControlNet's layers that see the picture."""
        return self.conditioning_embedding_out_channels or embedding_channels(vae_scale_factor)

    def check(self) -> None:
        """Raise ValueError, naming the flag, for what the method does not have or what is not counted."""
        if self.method not in METHODS:
            raise ValueError(f"--method is {self.method}; it must be {', '.join(METHODS)}")
        if self.with_prior_preservation and self.method not in PRIORS:
            raise ValueError(f"--with_prior_preservation is of --method {', '.join(PRIORS)}")
        if self.network_dim < 1:
            raise ValueError(f"--network_dim is {self.network_dim}; it must be at least 1")
        if self.network_module not in (None, "lora"):
            raise ValueError(f"--network_module {self.network_module}: counted is lora alone")
        if self.train_text_encoder and self.method == "textual_inversion":
            raise ValueError("--train_text_encoder: --method textual_inversion trains only new rows of it")
        if self.train_text_encoder and self.controls:
            raise ValueError("--train_text_encoder: --method controlnet leaves the text encoder as it is")
        if not self.controls and (self.control_type != "controlnet" or not self.sd_locked):
            raise ValueError("--control_type and --sd_locked are of --method controlnet")
        if self.control_type not in ("controlnet", "t2i_adapter"):
            raise ValueError(f"--control_type is {self.control_type}; it must be controlnet or t2i_adapter")
        if self.controls and not self.sd_locked and (self.adapts or self.control_type != "controlnet"):
            raise ValueError("--sd_locked False is of whole ControlNets; leave it out")
        if self.controls and self.adapts and self.control_type != "controlnet":
            raise ValueError("--network_module: adapters are for --control_type controlnet")
