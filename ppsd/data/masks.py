"""Masks for inpainting, drawn anew for each sample: 255 is painted anew, 0 is kept.

Wide strokes and boxes as in LaMa (arXiv 2109.07161, section 2.3), about 25 % of a picture on average. Some masks are
whole, as in the training of Stable Diffusion's inpainting model, so that the model still draws whole pictures.
"""

from __future__ import annotations

import math
from typing import Callable, Optional

import numpy as np
from PIL import Image, ImageDraw

from ppsd.data.seeds import Draw, derive_seed, uniform

KINDS = ("rectangles", "strokes", "ellipses", "full")
COVERAGE = 0.25

_FULL_SHARE = 0.4  # of the coverage that whole masks make up
_SPREAD = 0.75  # coverage of a mask is between 1 - and 1 + this times the average
_NEAR = 0.95  # of the area that is wanted: then no other shape is added
_MOST_SHAPES = 64
_CORNERS = 48

Chance = Callable[[float, float], float]
Shape = Callable[[Image.Image, float, Chance], None]


def kinds_of(text: Optional[str]) -> tuple[str, ...]:
    """The kinds that --mask_kinds names, each once. Raises ValueError for one that is not known."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in (text or "").split(",") if kind.strip()))
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"--mask_kinds {kind!r} is not one of {', '.join(KINDS)}")
    return kinds


def random_mask(
    width: int, height: int, seed: int, kinds: tuple[str, ...] = KINDS, coverage: float = COVERAGE
) -> np.ndarray:
    """uint8 [1,H,W] of 0 and 255, never empty; all chance comes from the sample's seed.

    coverage: the mean over many seeds, in (0, 1]; it can be kept unless whole masks are all there are.
    """
    chance = _chance(seed)
    partial = [kind for kind in kinds if kind != "full"]
    whole = 0.0
    if "full" in kinds:
        whole = min(1 / len(kinds), _FULL_SHARE * coverage) if partial else 1.0
    mean = (coverage - whole) / (1 - whole) if whole < 1 else 1.0
    if chance(0, 1) < whole or mean >= 1:
        return np.full((1, height, width), 255, np.uint8)
    kind = partial[int(chance(0, len(partial)))]
    spread = min(_SPREAD * mean, 1 - mean)
    return _filled(width, height, mean + chance(-spread, spread), _SHAPES[kind], chance)


def _chance(seed: int) -> Chance:
    """Numbers in [low, high), another with every call."""
    calls = iter(range(2**31))
    own = derive_seed(seed, Draw.MASK)
    return lambda low, high: low + (high - low) * uniform(own, next(calls))


def _filled(width: int, height: int, share: float, draw: Shape, chance: Chance) -> np.ndarray:
    """Shapes until nearly `share` of the picture is covered, none larger than what is left."""
    image = Image.new("L", (width, height))
    wanted, parts = share * width * height, chance(1, 4)
    covered = 0
    for number in range(_MOST_SHAPES):
        left = wanted - covered
        if number and left < (1 - _NEAR) * wanted:
            break
        draw(image, max(1.0, left if number >= parts else left * chance(0.3, 1)), chance)
        covered = int(np.count_nonzero(np.asarray(image)))
    return np.array(image)[None]


def _place(image: Image.Image, width: float, height: float, chance: Chance) -> tuple[int, int, int, int]:
    """Left, top, right and bottom (both outside) of a box within the image, of about this size."""
    wide, high = (max(1, min(size, round(of))) for size, of in zip(image.size, (width, height)))
    left, top = int(chance(0, image.width - wide + 1)), int(chance(0, image.height - high + 1))
    return left, top, left + wide, top + high


def _rectangle(image: Image.Image, area: float, chance: Chance) -> None:
    ratio = math.exp(chance(-1, 1))
    width = min(math.sqrt(area * ratio), image.width)
    width = max(width, area / image.height)
    left, top, right, bottom = _place(image, width, area / width, chance)
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=255)


def _ellipse(image: Image.Image, area: float, chance: Chance) -> None:
    """Turned, its centre anywhere: it may lie partly outside, and then another follows."""
    ratio, turn = math.exp(chance(-0.7, 0.7)), chance(0, math.pi)
    a, b = math.sqrt(area * ratio / math.pi), math.sqrt(area / ratio / math.pi)
    x, y = chance(0, image.width), chance(0, image.height)
    corners = []
    for corner in range(_CORNERS):
        u, v = a * math.cos(math.tau * corner / _CORNERS), b * math.sin(math.tau * corner / _CORNERS)
        corners.append((x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)))
    ImageDraw.Draw(image).polygon(corners, fill=255)
    ImageDraw.Draw(image).point((min(int(x), image.width - 1), min(int(y), image.height - 1)), fill=255)


def _stroke(image: Image.Image, area: float, chance: Chance) -> None:
    """A chain of round brush marks; of its pieces each turns a little, or back where it would leave the picture."""
    side = min(image.size)
    brush = max(1.0, min(chance(0.05, 0.15) * side, math.sqrt(area)))
    x, y, angle = chance(0, image.width), chance(0, image.height), chance(0, math.tau)
    draw, length = ImageDraw.Draw(image), max(0.0, area / brush - brush)
    _dot(draw, x, y, brush)
    while length > 0:
        step = min(length, chance(0.1, 0.3) * side)
        angle += chance(-1.2, 1.2)
        to_x, to_y = x + step * math.cos(angle), y + step * math.sin(angle)
        if not (0 <= to_x < image.width and 0 <= to_y < image.height):
            angle += math.pi
            to_x, to_y = (min(max(to, 0.0), size - 1.0) for to, size in zip((to_x, to_y), image.size))
        draw.line((x, y, to_x, to_y), fill=255, width=max(1, round(brush)))
        _dot(draw, to_x, to_y, brush)
        x, y, length = to_x, to_y, length - step


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    draw.ellipse((int(x - size / 2), int(y - size / 2), int(x + size / 2), int(y + size / 2)), fill=255)


_SHAPES: dict[str, Shape] = {"rectangles": _rectangle, "ellipses": _ellipse, "strokes": _stroke}
