"""A face drawn from 68 points, as in the FaceSynthetics example of "Train your ControlNet with diffusers".

https://huggingface.co/blog/train-your-controlnet: jaw, brows and nose are lines, eyes and lips are filled, each in a
colour of its own on black; lines are 4 pixels wide in a picture of 512. The points are those of the 300-W data (iBUG):
jaw 1-17, brows 18-27, nose 28-36, eyes 37-48, outer lips 49-60, inner lips 61-68.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

POINTS = 68
_SIDE, _WIDTH = 512, 4


class Part(NamedTuple):
    """Points `begin` to `end` of a face, counted from 0, and how they are drawn."""

    begin: int
    end: int
    color: tuple[int, int, int]
    filled: bool = False


LIME, YELLOW, ORANGE = (0, 255, 0), (255, 255, 0), (255, 165, 0)
MAGENTA, CYAN, BLUE = (255, 0, 255), (0, 255, 255), (0, 0, 255)
PARTS = (
    Part(0, 17, LIME),
    Part(17, 22, YELLOW),
    Part(22, 27, YELLOW),
    Part(27, 31, ORANGE),
    Part(31, 36, ORANGE),
    Part(36, 42, MAGENTA, filled=True),
    Part(42, 48, MAGENTA, filled=True),
    Part(48, 60, CYAN, filled=True),
    Part(60, 68, BLUE, filled=True),
)


def draw_landmarks(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Faces float [68,2] or [F,68,2], x and y in pixels of a picture of `size` (width, height) -> uint8 [3,H,W]."""
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    width = max(1, round(_WIDTH * min(size) / _SIDE))
    for face in np.asarray(points, np.float64).reshape(-1, POINTS, 2):
        for part in PARTS:
            contour = [(float(x), float(y)) for x, y in face[part.begin : part.end]]
            if part.filled:
                draw.polygon(contour, fill=part.color)
                contour.append(contour[0])
            draw.line(contour, fill=part.color, width=width, joint="curve")
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
