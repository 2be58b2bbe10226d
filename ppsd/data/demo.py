"""The demo world: one filled shape of a named colour on a background of another, and captions that say so.

A picture is a pure function of (seed, index, size). The pairs in `HELD_OUT` never occur, so that a model can be asked
for what it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (210, 20, 30),
    "orange": (255, 130, 0),
    "yellow": (255, 235, 40),
    "green": (20, 140, 50),
    "cyan": (50, 210, 225),
    "blue": (25, 65, 215),
    "purple": (140, 30, 160),
    "pink": (255, 140, 190),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
"""Any two are at least 112 apart in RGB, so the nearest name of a pixel is safe from JPEG and VAE noise."""

NAMES = tuple(COLORS)

HELD_OUT: tuple[tuple[str, str], ...] = tuple((name, NAMES[(i + 3) % len(NAMES)]) for i, name in enumerate(NAMES))
"""(shape colour, background colour) pairs that are never drawn; each colour is once the shape's, once the ground's:
red on green, orange on cyan, yellow on blue, green on purple, cyan on pink, blue on white, purple on black,
pink on red, white on orange, black on yellow."""

PAIRS: tuple[tuple[str, str], ...] = tuple((c, b) for c in NAMES for b in NAMES if c != b and (c, b) not in HELD_OUT)
"""The 80 (shape colour, background colour) pairs that are drawn."""

CAPTIONS: tuple[str, ...] = (
    "{a_color} {color} {shape} on {a_background} {background} background",
    "{a_background} {background} background with {a_color} {color} {shape}",
    "{color} {shape} on {background}",
    "{a_color} {color} {shape} in front of {a_background} {background} background",
    "{background} background, {color} {shape}",
    "a picture of {a_color} {color} {shape} over {a_background} {background} background",
    "the {shape} is {color} and the background is {background}",
    "on {a_background} {background} background there is {a_color} {color} {shape}",
)

RADIUS = (0.25, 0.38)
MARGIN = 0.08
"""Fractions of the picture's side: half the size of a shape, and the least distance between shape and border."""

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class DemoExample:
    """A picture [H,W] RGB, its outline (white on black, RGB), its caption, and what the caption says."""

    image: Image.Image
    outline: Image.Image
    caption: str
    shape: str
    color: str
    background: str


def _circle(x: float, y: float, r: float) -> list[tuple[float, float]]:
    return _ring(x, y, [r] * 64)


def _square(x: float, y: float, r: float) -> list[tuple[float, float]]:
    s = 0.85 * r
    return [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]


def _triangle(x: float, y: float, r: float) -> list[tuple[float, float]]:
    return [(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)]


def _diamond(x: float, y: float, r: float) -> list[tuple[float, float]]:
    return _ring(x, y, [r] * 4)


def _star(x: float, y: float, r: float) -> list[tuple[float, float]]:
    return _ring(x, y, [r, 0.5 * r] * 5)


def _ring(x: float, y: float, radii: list[float]) -> list[tuple[float, float]]:
    """Corners at equal angles around (x, y), the first one straight up."""
    angles = [2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(x + r * math.sin(a), y - r * math.cos(a)) for r, a in zip(radii, angles)]


SHAPES: dict[str, Callable[[float, float, float], list[tuple[float, float]]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
}
"""Name -> corners of the shape around (x, y) with half-size r."""


class Scene(NamedTuple):
    """What is on a picture and where: x, y, radius in sides of the picture; phrasing: which of `CAPTIONS` says so."""

    shape: str
    color: str
    background: str
    x: float
    y: float
    radius: float
    phrasing: int

    @property
    def caption(self) -> str:
        return make_caption(self.shape, self.color, self.background, self.phrasing)


def make_scene(index: int, seed: int = 0) -> Scene:
    """Of example `index` of the set `seed`."""
    random = np.random.default_rng([seed, index])
    color, background = PAIRS[random.integers(len(PAIRS))]
    shape = tuple(SHAPES)[random.integers(len(SHAPES))]
    radius = random.uniform(*RADIUS)
    x, y = random.uniform(radius + MARGIN, 1 - radius - MARGIN, 2)
    return Scene(shape, color, background, x, y, radius, int(random.integers(len(CAPTIONS))))


def make_example(index: int, seed: int = 0, size: int = 64) -> DemoExample:
    """Example `index` of the set `seed`, `size` x `size` pixels. A longer set begins with the shorter one."""
    scene = make_scene(index, seed)
    mask, outline = draw_shape(scene.shape, scene.x, scene.y, scene.radius, size)
    image = Image.composite(_plain(scene.color, size), _plain(scene.background, size), mask)
    return DemoExample(image, outline.convert("RGB"), scene.caption, scene.shape, scene.color, scene.background)


def make_caption(shape: str, color: str, background: str, phrasing: int = 0) -> str:
    """`CAPTIONS[phrasing]` filled in."""
    return fill_caption(CAPTIONS[phrasing], shape, color, background)


def fill_caption(template: str, shape: str, color: str, background: str) -> str:
    """A template like those of `CAPTIONS` filled in."""
    return template.format(
        shape=shape, color=color, background=background, a_color=_article(color), a_background=_article(background)
    )


def nearest_color(pixels: np.ndarray) -> np.ndarray:
    """uint8 [...,3] RGB -> int64 [...] index into `NAMES` of the nearest colour (Euclidean in RGB)."""
    table = np.array(list(COLORS.values()), np.float32)
    distances = ((pixels[..., None, :].astype(np.float32) - table) ** 2).sum(-1)
    return distances.argmin(-1)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _plain(color: str, size: int) -> Image.Image:
    return Image.new("RGB", (size, size), COLORS[color])


def draw_shape(shape: str, x: float, y: float, radius: float, size: int) -> tuple[Image.Image, Image.Image]:
    """The filled shape and its outline as masks [size,size], anti-aliased by drawing larger."""
    large = size * _SUPERSAMPLING
    mask, outline = Image.new("L", (large, large)), Image.new("L", (large, large))
    corners = [(large * px, large * py) for px, py in SHAPES[shape](x, y, radius)]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    ImageDraw.Draw(outline).line([*corners, *corners[:2]], fill=255, width=_SUPERSAMPLING, joint="curve")
    return mask.reduce(_SUPERSAMPLING), outline.reduce(_SUPERSAMPLING)
