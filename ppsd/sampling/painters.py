"""What draws prompts while training, and what it is told beside them. Arrays have the channels last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppsd.sampling.control import generate_controlled
from ppsd.sampling.depth import generate_from_depth
from ppsd.sampling.inpainting import generate_inpainted
from ppsd.sampling.pipeline import generate

_GREY = 127


class Painter:
    """Draws prompts alone. pipe: of the networks that are trained."""

    conditions: tuple[str, ...] = ()
    """What else it is told, by the names of a batch."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def draw(self, prompts: Sequence[str], **settings: Any) -> np.ndarray:
        """uint8 [N,H,W,3]; settings: of `generate`, and an array [N,...] for each of `conditions`."""
        return generate(self.pipe, prompts, **settings)

    def shown(self, told: Mapping[str, np.ndarray]) -> np.ndarray:
        """uint8 [N,H,W,3] of what it is told."""
        raise NotImplementedError


class ControlPainter(Painter):
    """With one ControlNet or T2I-Adapter. conditioning uint8 [N,H,W,3]."""

    conditions = ("conditioning",)

    def draw(self, prompts: Sequence[str], **settings: Any) -> np.ndarray:
        return generate_controlled(self.pipe, prompts, [settings.pop("conditioning")], **settings)

    def shown(self, told: Mapping[str, np.ndarray]) -> np.ndarray:
        return told["conditioning"]


class InpaintingPainter(Painter):
    """pixels uint8 [N,H,W,3]; mask uint8 [N,H,W], from 128 on painted anew."""

    conditions = ("pixels", "mask")

    def draw(self, prompts: Sequence[str], **settings: Any) -> np.ndarray:
        pixels, mask = settings.pop("pixels"), settings.pop("mask")
        return generate_inpainted(self.pipe, prompts, pixels, mask, **_without_size(settings))

    def shown(self, told: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.where(told["mask"][..., None] >= 128, np.uint8(_GREY), told["pixels"])


class DepthPainter(Painter):
    """depth float32 [N,H,W] in 0..1."""

    conditions = ("depth",)

    def draw(self, prompts: Sequence[str], **settings: Any) -> np.ndarray:
        return generate_from_depth(self.pipe, prompts, settings.pop("depth"), **_without_size(settings))

    def shown(self, told: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.repeat(np.rint(told["depth"] * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _without_size(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Where it is that of what the painter is told."""
    return {name: value for name, value in settings.items() if name not in ("height", "width")}
