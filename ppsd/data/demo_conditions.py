"""What a model can be told of the demo's pictures beside their captions: where the shape is, and how near things are.

Like ppsd.data.demo, pure functions of (seed, index, size). None of them has the shape's colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ppsd.data.demo import SHAPES, DemoExample, Scene, draw_shape, make_example, make_scene

GROUND = (0.0, 0.2)
"""Depth of the background at the picture's upper and lower end; 1 is nearest."""

EDGE, PEAK = 0.4, 1.0
"""Of the shape, a hill: at its edge and in its middle."""

_LEVELS = 48
_SUPERSAMPLING = 4
_WHITE = 65535


@dataclass(frozen=True)
class DemoConditions:
    """A picture of the demo and, of its size: mask (L, the shape white) and depth (I;16, light is near).

    The outline is the example's.
    """

    example: DemoExample
    mask: Image.Image
    depth: Image.Image


def make_conditions(index: int, seed: int = 0, size: int = 64) -> DemoConditions:
    """Of example `index` of the set `seed`, `size` x `size` pixels."""
    scene = make_scene(index, seed)
    mask, _ = draw_shape(scene.shape, scene.x, scene.y, scene.radius, size)
    grey = np.rint(draw_depth(scene, size) * _WHITE).astype(np.uint16)
    return DemoConditions(make_example(index, seed, size), mask, Image.fromarray(grey))


def draw_depth(scene: Scene, size: int) -> np.ndarray:
    """float32 [size,size] in 0..1, larger is nearer: a hill with the shape's outline on ground that comes nearer.

    Latents are 8 times smaller than pictures, and so is the depth that a model is told; that the shape rises from its
    edge to its middle tells where the edge is within those 8 pixels.
    """
    large = size * _SUPERSAMPLING
    far, near = GROUND
    depth = Image.fromarray(np.repeat(np.linspace(far, near, large, dtype=np.float32)[:, None], large, axis=1))
    draw = ImageDraw.Draw(depth)
    for level in range(_LEVELS):
        share = level / (_LEVELS - 1)
        corners = SHAPES[scene.shape](scene.x, scene.y, scene.radius * (1 - share))
        draw.polygon([(large * x, large * y) for x, y in corners], fill=EDGE + share * (PEAK - EDGE))
    return np.asarray(depth.reduce(_SUPERSAMPLING), np.float32)
