"""Does an inpainting model keep what is not masked, and paint what is masked as the prompt says?

    python -m tests.benchmarks.inpainting_demo

Makes a UNet with 9 input channels of the demo's model and trains it on 2000 pictures and masks that are drawn while
training, with examples/inpainting/train_inpainting.py. Then the shapes of 100 held-out pictures are masked, with a
margin, and the prompt names another colour for them. What is kept is compared with the picture, and with the picture
after it went through the VAE, whose own error no model that draws in its latents is without.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppsd.data.demo import make_caption
from tests.benchmarks.condition_runs import condition_parser, time_goal, trained
from tests.benchmarks.goals import Goal, at_least, print_goals

MAX_STEPS, LEARNING_RATE = 1200, 2e-3
LEAST_COLOR = 0.80
MOST_ERROR = 1.5
"""Of what is kept, as a multiple of what the VAE alone does to it."""
MARGIN = 4
"""Pixels around the shape that are masked, too."""
SCRIPT = "inpainting/train_inpainting.py"


def main() -> None:
    args = condition_parser(__doc__, MAX_STEPS, LEARNING_RATE).parse_args()
    run, took = trained(args, SCRIPT, "inpainting", flags)
    error, least, color = measure(run, args.num_samples, args.output / "inpainting.png")
    kept = Goal(
        "error of what is kept", f"<= {MOST_ERROR} x the VAE's", f"{error / least:.2f} x", error <= MOST_ERROR * least
    )
    print_goals([kept, at_least("masked region has the prompt's colour", color, LEAST_COLOR), *time_goal(took)])


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


def measure(run: Path, count: int, grid: Path) -> tuple[float, float, float]:
    """Mean error of what is kept, in grey levels, that of the VAE alone, and the share of right colours."""
    from ppsd.models.widening import INPAINTING
    from ppsd.sampling.inpainting import generate_inpainted
    from ppsd.sampling.pipeline import load_pipeline
    from tests.benchmarks.held_out_conditions import SETTINGS, another_color, held_out, sheet, through_vae
    from tests.benchmarks.prompt_accuracy import score
    from tests.benchmarks.regions import mean_error

    data = held_out(count)
    masks = boxes(data.masks, MARGIN)
    pairs = [(another_color(pair, number), pair[1]) for number, pair in enumerate(data.pairs)]
    prompts = [make_caption(shape, *pair) for shape, pair in zip(data.shapes, pairs)]
    pipe = load_pipeline(str(run), concat_channels=INPAINTING)
    drawn = generate_inpainted(pipe, prompts, data.pictures, masks.astype(np.uint8) * 255, **SETTINGS)
    passed = through_vae(pipe.vae, data.pictures)
    errors = {
        "drawn - picture": mean_error(drawn, data.pictures, ~masks),
        "drawn - picture through the VAE": mean_error(drawn, passed, ~masks),
        "picture through the VAE - picture": mean_error(passed, data.pictures, ~masks),
    }
    print(f"\n{'not masked, grey levels of 255':<40}{'mean error':>12}")
    for name, error in errors.items():
        print(f"{name:<40}{error:>12.2f}")
    shape, background = (float(right.mean()) for right in score(list(drawn), pairs))
    print(f"masked region: {shape:.0%} of shapes have the prompt's colour; {background:.0%} of backgrounds are kept")
    sheet(grid, data.pictures, np.where(masks[..., None], np.uint8(127), data.pictures), drawn)
    return errors["drawn - picture"], errors["picture through the VAE - picture"], shape


if __name__ == "__main__":
    main()
