"""What is on pictures of the demo's kinds, read from their pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppsd.data.demo import NAMES, nearest_color
from ppsd.data.demo_kinds import SUBJECT_COLOR, stripe_color
from tests.benchmarks.prompt_accuracy import LEAST_AREA, border, foreground, read_colors

MANY = 0.15
"""Share of a shape's pixels from which on a colour is one of its colours."""


class Stripes(NamedTuple):
    """striped: the shape has at least two changes, from top to bottom, between its colour and that of its stripes."""

    striped: bool
    color: bool
    background: bool


def read_stripes(image: np.ndarray, color: str, background: str) -> Stripes:
    """uint8 [H,W,3] -> whether the shape is striped, and whether shape and background have the colours asked for."""
    ground = read_colors(image)[0]
    shape = foreground(image)
    named = nearest_color(image)
    own, stripe = (shape & (named == NAMES.index(name)) for name in (color, stripe_color(color, background)))
    pixels = max(int(shape.sum()), 1)
    both = min(own.sum(), stripe.sum()) / pixels >= MANY
    rows = [np.sign(int(a) - int(b)) for a, b in zip(own.sum(axis=1), stripe.sum(axis=1)) if a + b >= 3]
    changes = sum(a * b < 0 for a, b in zip(rows, rows[1:]))
    return Stripes(bool(both and changes >= 2), own.sum() / pixels >= MANY, ground == background)


class Ring(NamedTuple):
    """hole: background inside of the shape; color: the shape is the subject's colour; shape: there is one."""

    hole: bool
    color: bool
    shape: bool


def read_ring(image: np.ndarray) -> Ring:
    """uint8 [H,W,3] -> what of the subject is there."""
    shape = foreground(image)
    if shape.mean() < LEAST_AREA:
        return Ring(False, False, False)
    inside = _enclosed(shape)
    return Ring(
        bool(inside.sum() >= 0.1 * shape.sum()),
        read_colors(image)[1] == SUBJECT_COLOR,
        True,
    )


def _enclosed(shape: np.ndarray) -> np.ndarray:
    """bool [H,W]: what is not shape and cannot be reached from the border."""
    reached = border(*shape.shape) & ~shape
    while True:
        padded = np.pad(reached, 1)
        grown = padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2] | reached
        grown &= ~shape
        if (grown == reached).all():
            return ~shape & ~reached
        reached = grown
