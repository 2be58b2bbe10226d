"""Does an inpainting model keep what is not masked, and paint what is masked as the prompt says?

    python -m tests.benchmarks.inpainting_demo

Makes a UNet with 9 input channels of the demo's model and trains it on 2000 pictures and masks that are drawn while
training, with examples/inpainting/train_inpainting.py. Then the shapes of 100 held-out pictures are masked, with a
margin, and the prompt names another colour for them. What is kept is compared with the picture, and with the picture
after it went through the VAE, whose own error no model that draws in its latents is without; and once more after the
pixels that are not masked were put back (keep_unmasked of generate_inpainted, --keep_unmasked of eval.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppsd.data.demo import make_caption
from tests.benchmarks.condition_runs import condition_parser, time_goal, trained
from tests.benchmarks.goals import Goal, at_least, print_goals
from tests.benchmarks.prompt_accuracy import score
from tests.benchmarks.regions import mean_error

MAX_STEPS, LEARNING_RATE = 1200, 2e-3
LEAST_COLOR = 0.80
MOST_ERROR = 1.5
"""Of what the model keeps, as a multiple of what the VAE alone does to it."""
MARGIN = 4
"""Pixels around the shape that are masked, too."""
SCRIPT = "inpainting/train_inpainting.py"


class Measured(NamedTuple):
    """Mean errors of what is not masked, in grey levels of 255: as drawn, put back after it (keep_unmasked), and of the
    VAE alone; and the share of shapes that have the prompt's colour."""

    error: float
    put_back: float
    vae_error: float
    color: float


def main() -> None:
    args = condition_parser(__doc__, MAX_STEPS, LEARNING_RATE).parse_args()
    run, took = trained(args, SCRIPT, "inpainting", flags)
    found = measure(run, args.num_samples, args.output / "inpainting.png")
    print_goals([*goals(found), *time_goal(took)])


def goals(found: Measured) -> list[Goal]:
    """Of what is kept and what is painted anew."""
    times = found.error / found.vae_error
    return [
        Goal("what is kept, put back", "unchanged", f"{found.put_back:.2f} of 255", found.put_back == 0),
        Goal(
            "what is kept, drawn",
            f"<= {MOST_ERROR} x the VAE's error",
            f"{times:.2f} x ({found.error:.2f} of 255)",
            times <= MOST_ERROR,
        ),
        at_least("masked region has the prompt's colour", found.color, LEAST_COLOR),
    ]


def flags(base: Path, data: Path, max_steps: int, learning_rate: float) -> list[str]:
    """Of the script that is measured."""
    return f"""--pretrained_model_name_or_path {base} --train_data_dir {data} --max_steps {max_steps}
        --learning_rate {learning_rate} --warmup_steps 50 --ema_decay 0.99""".split()


def boxes(masks: np.ndarray, margin: int) -> np.ndarray:
    """bool [N,H,W] of shapes -> of the boxes around them, `margin` pixels larger on each side."""
    made = np.zeros_like(masks)
    for box, mask in zip(made, masks):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
        box[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1] = True
    return made


def without_masked(masks: np.ndarray, factor: int = 8) -> np.ndarray:
    """bool [N,H,W]: pixels of those latents, `factor` pixels wide, none of whose pixels is masked."""
    count, height, width = masks.shape
    blocks = masks.reshape(count, height // factor, factor, width // factor, factor).any(axis=(2, 4))
    return ~blocks.repeat(factor, axis=1).repeat(factor, axis=2)


def measure(run: Path, count: int, grid: Path) -> Measured:
    """Draw, score, print more than is returned."""
    from ppsd.models.widening import INPAINTING
    from ppsd.sampling.inpainting import generate_inpainted
    from ppsd.sampling.pipeline import load_pipeline
    from tests.benchmarks.held_out_conditions import SETTINGS, another_color, held_out, sheet, through_vae

    data = held_out(count)
    masks = boxes(data.masks, MARGIN)
    pairs = [(another_color(pair, number), pair[1]) for number, pair in enumerate(data.pairs)]
    prompts = [make_caption(shape, *pair) for shape, pair in zip(data.shapes, pairs)]
    pipe = load_pipeline(str(run), concat_channels=INPAINTING)

    def draw(some: int, keep: bool) -> np.ndarray:
        told = data.pictures[:some], masks[:some].astype(np.uint8) * 255
        return generate_inpainted(pipe, prompts[:some], *told, keep_unmasked=keep, **SETTINGS)

    drawn, put_back, passed = draw(count, False), draw(20, True), through_vae(pipe.vae, data.pictures)
    sheet(grid, data.pictures, np.where(masks[..., None], np.uint8(127), data.pictures), drawn)
    shape, background = (float(right.mean()) for right in score(list(drawn), pairs))
    print(f"\nmasked region: {shape:.0%} of shapes and {background:.0%} of backgrounds have the prompt's colour")
    return Measured(*show_errors(data.pictures, masks, drawn, put_back, passed), shape)


def show_errors(
    pictures: np.ndarray, masks: np.ndarray, drawn: np.ndarray, put_back: np.ndarray, passed: np.ndarray
) -> tuple[float, float, float]:
    """Print errors of what is not masked; the first three of `Measured`. put_back: of the first pictures; passed: of
    the VAE alone; all of them uint8 [N,H,W,3], masks bool [N,H,W]."""
    kept, some = ~masks, len(put_back)
    errors = (
        mean_error(drawn, pictures, kept),
        mean_error(put_back, pictures[:some], kept[:some]),
        mean_error(passed, pictures, kept),
    )
    print(f"{'not masked, grey levels of 255':<52}{'mean error':>12}")
    for name, error in (
        ("drawn - picture", errors[0]),
        ("drawn - picture, in latents without masked pixels", mean_error(drawn, pictures, without_masked(masks))),
        ("drawn - picture through the VAE", mean_error(drawn, passed, kept)),
        ("picture through the VAE - picture", errors[2]),
        ("drawn and put back - picture", errors[1]),
    ):
        print(f"{name:<52}{error:>12.2f}")
    return errors


if __name__ == "__main__":
    main()
