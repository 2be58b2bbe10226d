"""A white shape on black and its exact mask, written in every way that a condition can come in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image, ImageDraw

from ppsd.types import Record
from tests.images import encode


def scene(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    """An L-shaped white figure, different from its mirror image and from itself turned, on black: RGB."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height))
    x, y = rng.uniform(0.1, 0.4) * width, rng.uniform(0.1, 0.4) * height
    corners = [(0, 0), (0.15, 0), (0.15, 0.35), (0.45, 0.35), (0.45, 0.5), (0, 0.5)]
    ImageDraw.Draw(image).polygon([(x + u * width, y + v * height) for u, v in corners], fill="white")
    return image


def mask_of(image: Image.Image, scale: float = 1.0) -> Image.Image:
    """The same figure as a grey picture, at another resolution."""
    size = round(image.width * scale), round(image.height * scale)
    return image.convert("L").resize(size, Image.Resampling.BOX)


def png(image: Image.Image) -> bytes:
    return encode(image, "PNG")


def scene_record(seed: int = 0, scale: float = 1.0, names: Sequence[str] = ("conditioning_image",)) -> Record:
    """The picture as a JPEG, further images as bytes in the meta."""
    image = scene(seed=seed)
    return Record(encode(image, quality=95), f"scene {seed}", {name: png(mask_of(image, scale)) for name in names})


def write_scenes(folder: Path, count: int, scale: float = 1.0, **columns: Optional[str]) -> Path:
    """An image folder of scenes; columns: name of a column and format of its value, {n} being the number."""
    columns = columns or {"conditioning_image": "c/{n}.png"}
    (folder / "c").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for n in range(count):
        image = scene(seed=n)
        image.save(folder / f"{n}.jpg", quality=95)
        mask_of(image, scale).save(folder / f"c/{n}.png")
        paths = {name: value.format(n=n) for name, value in columns.items() if value is not None}
        rows.append({"file_name": f"{n}.jpg", "text": f"scene {n}", **paths})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def disagreement(pixels: np.ndarray, condition: np.ndarray, margin: int = 1) -> float:
    """Share of pixels of which picture and condition say different things, but for `margin` at an edge of the figure.

    pixels uint8 [3,H,W]; condition uint8 [C,H,W] or float [C,H,W] in 0..1.
    """
    inside = pixels.mean(0) >= 128
    other = condition.mean(0) >= (128 if condition.dtype == np.uint8 else 0.5)
    edge = np.zeros_like(inside)
    for down in range(-margin, margin + 1):
        for right in range(-margin, margin + 1):
            edge |= np.roll(inside, (down, right), (0, 1)) != inside
    return float((inside != other)[~edge].mean())
