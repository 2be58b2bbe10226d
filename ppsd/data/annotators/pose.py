"""People drawn from 18 points of the body each, in the colours of OpenPose that ControlNets know.

The points are COCO's with the neck: nose, neck, right shoulder, elbow, wrist, left shoulder, elbow, wrist, right hip,
knee, ankle, left hip, knee, ankle, right eye, left eye, right ear, left ear. As in
https://github.com/lllyasviel/ControlNet (annotator/openpose), bones are ellipses of 60 % of their colour, 8 pixels
thick in a picture of 512, under round joints of the full colour.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

POINTS = 18
_SIDE, _RADIUS, _BONES = 512, 4, 0.6
_CORNERS = 48

BONES = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""Pairs of points, counted from 0; bone n has the colour of point n."""

COLORS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)


def draw_pose(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """People float [18,2] or [P,18,2], x and y in pixels of a picture of `size` (width, height) -> uint8 [3,H,W].

    NaN: a point that is not seen; it has no joint, and none of its bones is drawn.
    """
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    radius = max(1.0, _RADIUS * min(size) / _SIDE)
    people = np.asarray(points, np.float64).reshape(-1, POINTS, 2)
    for (start, end), color in zip(BONES, COLORS):
        for person in people:
            if not np.isnan(person[[start, end]]).any():
                draw.polygon(_bone(person[start], person[end], radius), fill=_darker(color))
    for number, color in enumerate(COLORS):
        for x, y in people[:, number]:
            if not math.isnan(x + y):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _darker(color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(value * _BONES) for value in color)
    return red, green, blue


def _bone(start: np.ndarray, end: np.ndarray, radius: float) -> list[tuple[float, float]]:
    """Corners of an ellipse from one point to the other."""
    (x, y), (along, across) = (start + end) / 2, (end - start) / 2
    length = max(math.hypot(along, across), 1e-6)
    cosine, sine = along / length, across / length
    turns = [math.tau * corner / _CORNERS for corner in range(_CORNERS)]
    ellipse = [(length * math.cos(turn), radius * math.sin(turn)) for turn in turns]
    return [(x + u * cosine - v * sine, y + u * sine + v * cosine) for u, v in ellipse]
