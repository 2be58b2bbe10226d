"""Flags of inpainting and depth models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ppsd.trainers.arguments.conditions import ConditionArguments
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments
from ppsd.trainers.arguments.flag import flag


@dataclass
class InpaintingArguments(ConditionArguments, DreamBoothArguments):
    """Flags of inpainting; with those of DreamBooth it is of one subject."""

    validation_image: Optional[list[str]] = flag(
        None, "Pictures of the previews, one for each --validation_prompt (or one for all)."
    )
    validation_mask: Optional[list[str]] = flag(None, "Their masks: light is painted anew.")


@dataclass
class DepthArguments(ConditionArguments):
    """Flags of depth models."""

    validation_depth: Optional[list[str]] = flag(
        None, "Depth maps of the previews, one for each --validation_prompt (or one for all): light is near."
    )
