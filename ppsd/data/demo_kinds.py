"""Pictures that the demo's base model has not seen: a style to fine-tune it on, and a subject to teach it.

Like ppsd.data.demo, pure functions of (seed, index, size).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ppsd.data.demo import COLORS, HELD_OUT, MARGIN, NAMES, RADIUS, DemoExample, draw_shape, make_example

STRIPES = 6
"""Stripes that a picture's height has room for."""

_STRIPE_COLORS = ("white", "black", "yellow")

SUBJECT_COLOR = "purple"
SUBJECT_BACKGROUNDS = ("yellow", "cyan", "orange", "green", "white")
_HOLE = 0.5
STAR_COLORS = ("cyan", "pink")


def stripe_color(color: str, background: str) -> str:
    """What a shape is striped with: white, or what differs from both of its colours."""
    return next(name for name in _STRIPE_COLORS if name not in (color, background))


def make_striped(index: int, seed: int = 0, size: int = 64) -> DemoExample:
    """The example of ppsd.data.demo, its shape filled with horizontal stripes; the caption does not tell."""
    plain = make_example(index, seed, size)
    rows = np.arange(size) * STRIPES // size % 2 == 0
    pixels = np.asarray(plain.image).astype(np.float32)
    color, background = (np.array(COLORS[name], np.float32) for name in (plain.color, plain.background))
    share = ((pixels - background) * (color - background)).sum(-1) / ((color - background) ** 2).sum()
    stripe = np.array(COLORS[stripe_color(plain.color, plain.background)], np.float32)
    striped = pixels + rows[:, None, None] * share[..., None] * (stripe - color)
    image = Image.fromarray(striped.round().clip(0, 255).astype(np.uint8))
    return DemoExample(image, plain.outline, plain.caption, plain.shape, plain.color, plain.background)


def make_subject(index: int, seed: int = 0, size: int = 64) -> DemoExample:
    """A ring, which no example of ppsd.data.demo is: always of one colour, on a background that changes."""
    random = np.random.default_rng([seed, index, 1])
    background = SUBJECT_BACKGROUNDS[index % len(SUBJECT_BACKGROUNDS)]
    radius = random.uniform(RADIUS[0] + 0.05, RADIUS[1])
    x, y = random.uniform(radius + MARGIN, 1 - radius - MARGIN, 2)
    mask, outline = draw_shape("circle", x, y, radius, size)
    hole, _ = draw_shape("circle", x, y, radius * _HOLE, size)
    plain = Image.new("RGB", (size, size), COLORS[background])
    ring = Image.composite(Image.new("RGB", (size, size), COLORS[SUBJECT_COLOR]), plain, mask)
    image = Image.composite(plain, ring, hole)
    return DemoExample(image, outline.convert("RGB"), "", "circle", SUBJECT_COLOR, background)


def make_star(index: int, seed: int = 0, size: int = 64) -> DemoExample:
    """Always the same star on the same background, of two colours that no example of ppsd.data.demo has together."""
    random = np.random.default_rng([seed, index, 2])
    radius = random.uniform(RADIUS[0] + 0.05, RADIUS[1])
    x, y = random.uniform(radius + MARGIN, 1 - radius - MARGIN, 2)
    mask, outline = draw_shape("star", x, y, radius, size)
    color, background = STAR_COLORS
    star, plain = (Image.new("RGB", (size, size), COLORS[name]) for name in (color, background))
    return DemoExample(Image.composite(star, plain, mask), outline.convert("RGB"), "", "star", color, background)


assert STAR_COLORS in HELD_OUT
assert set(SUBJECT_BACKGROUNDS) <= set(NAMES) - {SUBJECT_COLOR}
