"""Held-out pictures of the demo's kind with their conditions, and tables of what was drawn for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from ppsd.data.demo import NAMES
from ppsd.data.demo_conditions import make_conditions
from ppsd.models.latents import reconstruct
from ppsd.sampling.grid import image_grid, save_png
from tests.benchmarks.prompt_accuracy import Pair, score
from tests.benchmarks.regions import overlaps

SEED = 1
"""Of the held-out set; that of the training sets is 0."""

SETTINGS = {"guidance_scale": 3.0, "num_inference_steps": 30, "seed": 7, "batch_size": 20}
_SHOWN = 8


@dataclass(frozen=True)
class HeldOut:
    """N pictures. pictures, outlines uint8 [N,H,W,3]; depths float32 [N,H,W] in 0..1; masks bool [N,H,W], of
    the shapes;
    pairs: colours of shape and background; shapes: their names."""

    prompts: list[str]
    shapes: list[str]
    pairs: list[Pair]
    pictures: np.ndarray
    outlines: np.ndarray
    depths: np.ndarray
    masks: np.ndarray


def held_out(count: int) -> HeldOut:
    """The first `count` of the held-out set."""
    made = [make_conditions(index, SEED) for index in range(count)]
    return HeldOut(
        [one.example.caption for one in made],
        [one.example.shape for one in made],
        [(one.example.color, one.example.background) for one in made],
        np.stack([np.asarray(one.example.image) for one in made]),
        np.stack([np.asarray(one.example.outline) for one in made]),
        np.stack([np.asarray(one.depth, np.float32) / np.float32(65535) for one in made]),
        np.stack([np.asarray(one.mask) > 127 for one in made]),
    )


def through_vae(vae: paddle.nn.Layer, pictures: np.ndarray) -> np.ndarray:
    """What the VAE alone makes of pictures, uint8 [N,H,W,3]: nothing that is drawn in its latents can be nearer."""
    pixels = paddle.to_tensor(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    made = [reconstruct(vae, pixels[i : i + 20]).numpy() for i in range(0, len(pictures), 20)]
    return np.rint(np.concatenate(made) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def another_color(pair: Pair, number: int) -> str:
    """A colour that is neither the shape's nor the background's; each in its turn."""
    others = [name for name in NAMES if name not in pair]
    return others[number % len(others)]


def read(images: np.ndarray, data: HeldOut) -> tuple[float, float, float, float]:
    """Mean IoU, the tenth percentile of it, and shares of the right shape colour and background."""
    found = overlaps(images, data.masks)
    shape, background = score(list(images), data.pairs)
    return float(found.mean()), float(np.quantile(found, 0.1)), float(shape.mean()), float(background.mean())


def chance(images: np.ndarray, data: HeldOut) -> float:
    """Mean IoU with conditions that the pictures were not drawn for: each with the next one's."""
    return float(overlaps(images, np.roll(data.masks, -1, axis=0)).mean())


def show(rows: Mapping[str, Sequence[float]]) -> None:
    """Print a table of what `read` gives."""
    print(f"\n{'':<36}{'mean IoU':>10}{'p10':>8}{'shape colour':>14}{'background':>12}")
    for name, (mean, low, shape, background) in rows.items():
        print(f"{name:<36}{mean:>10.3f}{low:>8.3f}{shape:>14.0%}{background:>12.0%}")


def sheet(path: Path, *rows: np.ndarray) -> None:
    """A PNG of the first pictures of each row, uint8 [N,H,W,3], one row below the other, twice as large."""
    images = np.concatenate([row[:_SHOWN] for row in rows])
    save_png(path, image_grid(images.repeat(2, axis=1).repeat(2, axis=2), columns=_SHOWN))
