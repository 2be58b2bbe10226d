"""Draw prompts with whatever else the pipeline is told, and show that beside what was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from ppsd.data.condition_pictures import MASKED
from ppsd.sampling.control import generate_controlled
from ppsd.sampling.depth import STRENGTH, generate_from_depth
from ppsd.sampling.grid import image_grid
from ppsd.sampling.inpainting import generate_inpainted
from ppsd.sampling.pipeline import generate

_GREY = 127

Told = Mapping[str, np.ndarray]
"""What belongs to N prompts, by name, of those that the pipeline needs:

controls uint8 [N,K,H,W,3] of K ControlNets; pixels uint8 [N,H,W,3], the pictures to begin with; mask uint8 [N,H,W],
from 128 on painted anew; depth float32 [N,H,W], larger is nearer.
"""


def generate_told(
    pipe: Any,
    prompts: Sequence[str],
    *,
    controls: Optional[np.ndarray] = None,
    pixels: Optional[np.ndarray] = None,
    mask: Optional[np.ndarray] = None,
    depth: Optional[np.ndarray] = None,
    scales: Sequence[float] = (),
    strength: float = STRENGTH,
    keep_unmasked: bool = False,
    height: Optional[int] = None,
    width: Optional[int] = None,
    **settings: Any,
) -> np.ndarray:
    """One picture a prompt, uint8 [N,H,W,3]. controls ... depth: of Told; scales: of the ControlNets in the pipeline,
    without which `controls` have no say; strength, keep_unmasked: of `generate_from_depth` and `generate_inpainted`;
    settings: of `generate`. Raises ValueError for what does not go together."""
    if mask is not None:
        assert pixels is not None
        return generate_inpainted(pipe, prompts, pixels, mask, keep_unmasked=keep_unmasked, **settings)
    if depth is not None:
        return generate_from_depth(pipe, prompts, depth, pixels, strength=strength, **settings)
    if controls is not None and scales:
        return generate_controlled(pipe, prompts, list(controls.swapaxes(0, 1)), scales, **settings)
    return generate(pipe, prompts, height=height, width=width, **settings)


def shown(told: Told, index: int) -> list[np.ndarray]:
    """What of it belongs to one picture, as pictures uint8 [H,W,3]: what is masked is grey, what is near is light."""
    found = list(told["controls"][index]) if "controls" in told else []
    if "pixels" in told:
        masked = told["mask"][index, ..., None] >= MASKED if "mask" in told else np.False_
        found.append(np.where(masked, np.uint8(_GREY), told["pixels"][index]))
    if "depth" in told:
        grey = np.rint(told["depth"][index] * 255).astype(np.uint8)
        found.append(np.repeat(grey[..., None], 3, axis=-1))
    return found


def grid_beside(
    rows: Sequence[Sequence[np.ndarray]], names: Sequence[str], prompts: Sequence[str], told: Told, copies: int = 1
) -> np.ndarray:
    """What was told is left of what was drawn: uint8 [H,W,3] with a line for each prompt, in which each of the rows has
    its `copies` pictures side by side. rows: of each the pictures of N prompts, `copies` of one after the other; names:
    of the rows; told: of N."""
    tiles, captions = [], []
    for start in range(0, len(prompts), copies):
        left = shown(told, start)
        tiles += [*left, *(picture for row in rows for picture in row[start : start + copies])]
        captions += [""] * len(left)
        captions += [captioned(prompts[start], name, len(names)) for name in names for _ in range(copies)]
    return image_grid(tiles, columns=len(shown(told, 0)) + len(rows) * copies, captions=captions)


def captioned(prompt: str, name: str, rows: int) -> str:
    """What stands below a picture: the row only where there are others."""
    return f"{prompt} [{name}]" if rows > 1 else prompt
