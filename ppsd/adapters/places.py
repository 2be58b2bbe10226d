"""Where an adapter is: the part of the pipeline, and the layer's path in it."""

from __future__ import annotations

from typing import NamedTuple

PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


class Place(NamedTuple):
    """part: unet, text_encoder or text_encoder_2 (SDXL's); path: the layer's name in diffusers and ppdiffusers."""

    part: str
    path: str


def kohya_name(place: Place, several_encoders: bool = False) -> str:
    """`lora_unet_down_blocks_0_...`, as kohya's files name Stable Diffusion 1 and 2.

    several_encoders: the first text encoder's prefix is then `lora_te1`, as in files of SDXL.
    """
    prefix = PREFIXES[place.part]
    if several_encoders and place.part == "text_encoder":
        prefix = "lora_te1"
    return f"{prefix}_{place.path.replace('.', '_')}"
