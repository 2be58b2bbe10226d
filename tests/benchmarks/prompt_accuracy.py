"""Does a pipeline draw the colours that the prompt names?

    python tests/benchmarks/prompt_accuracy.py --pipeline output/demo/run

Draws the demo's kind of pictures from 100 prompts with colour pairs drawn at random among those of the training set,
and from 100 with the pairs held out of it, and scores each picture by its pixels (see `read_colors`). Prints both
figures; the exit code is 1 if one is below its target.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ppsd.data.demo import CAPTIONS, COLORS, HELD_OUT, NAMES, PAIRS, SHAPES, make_caption, nearest_color

TARGETS = {"trained": (0.90, 0.95), "held out": (0.80, 0.90)}
"""The least share of pictures whose shape, and whose background, has the right colour."""

LEAST_DIFFERENCE = 56.0
"""RGB distance from the background beyond which a pixel is not background: half the distance of the closest names."""

LEAST_AREA = 0.01
"""Share of the picture's pixels, edges not counted, below which there is no shape."""

Pair = tuple[str, str]


def read_colors(image: np.ndarray) -> tuple[str, Optional[str]]:
    """uint8 [H,W,3] -> (background, shape colour or None if there is no shape).

    The border is the outer 1/16 of the picture; the background is the nearest named colour of most of its pixels. The
    shape is every pixel inside the border that is unlike the border's median colour, less the pixels at the edge of
    that region, which mix both colours; its colour is the nearest named one of most of the pixels left.
    """
    shape = foreground(image)
    background = _most_common(image[border(*image.shape[:2])])
    return background, _most_common(image[shape]) if shape.mean() >= LEAST_AREA else None


def foreground(image: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3] -> bool [H,W]: the shape's pixels, without those at its edge."""
    outside = border(*image.shape[:2])
    unlike = np.linalg.norm(image - np.median(image[outside], axis=0), axis=-1) > LEAST_DIFFERENCE
    return _without_edge(~outside & unlike)


def score(images: Sequence[np.ndarray], pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and the (shape colour, background) asked for -> two bool [N]: shape right, background right."""
    seen = [read_colors(image) for image in images]
    shape = [color == wanted[0] for (_, color), wanted in zip(seen, pairs)]
    background = [color == wanted[1] for (color, _), wanted in zip(seen, pairs)]
    return np.array(shape), np.array(background)


def choose(pairs: Sequence[Pair], count: int, seed: int) -> tuple[list[Pair], list[str]]:
    """`count` pairs drawn at random, each with a prompt of random shape and phrasing."""
    random = np.random.default_rng(seed)
    chosen = [pairs[i] for i in random.integers(len(pairs), size=count)]
    shapes = tuple(SHAPES)
    prompts = [
        make_caption(shapes[random.integers(len(shapes))], *pair, phrasing=int(random.integers(len(CAPTIONS))))
        for pair in chosen
    ]
    return chosen, prompts


def border(height: int, width: int) -> np.ndarray:
    """bool [H,W], true on the outer 1/16."""
    outer = np.ones((height, width), bool)
    rows, columns = max(1, height // 16), max(1, width // 16)
    outer[rows:-rows, columns:-columns] = False
    return outer


def _without_edge(region: np.ndarray) -> np.ndarray:
    """bool [H,W]: the pixels of the region whose four neighbours are in it too."""
    padded = np.pad(region, 1)
    return region & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]


def _most_common(pixels: np.ndarray) -> str:
    """uint8 [N,3] -> the name that is nearest to most of them."""
    return NAMES[np.bincount(nearest_color(pixels), minlength=len(COLORS)).argmax()]


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pipeline", required=True, help="Pipeline folder.")
    parser.add_argument("--unet", help="A checkpoint's unet folder, instead of the pipeline's.")
    parser.add_argument("--num_prompts", type=int, default=100, help="Of each kind.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--num_inference_steps", type=int, default=30)
    parser.add_argument("--output", help="PNG to save all pictures to: trained pairs above, held-out pairs below.")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Draw, score, print; returns the exit code."""
    args = parse_args(argv)
    from ppsd.sampling.grid import image_grid, save_png
    from ppsd.sampling.pipeline import generate, load_pipeline

    pipe = load_pipeline(args.pipeline, args.unet)
    drawn, low = [], False
    print(f"{'pairs':<10}{'prompts':>8}{'shape colour':>14}{'background':>12}   targets")
    for number, (kind, pairs) in enumerate((("trained", PAIRS), ("held out", HELD_OUT))):
        wanted, prompts = choose(pairs, args.num_prompts, args.seed + number)
        options = {"guidance_scale": args.guidance_scale, "num_inference_steps": args.num_inference_steps}
        images = generate(pipe, prompts, seed=args.seed + number, batch_size=20, **options)
        shares = [float(right.mean()) for right in score(images, wanted)]
        targets = TARGETS[kind]
        print(f"{kind:<10}{len(prompts):>8}{shares[0]:>14.1%}{shares[1]:>12.1%}   {targets[0]:.0%}, {targets[1]:.0%}")
        low = low or any(share < target for share, target in zip(shares, targets))
        drawn.append(images)
    if args.output:
        save_png(Path(args.output), image_grid(np.concatenate(drawn), columns=20))
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
