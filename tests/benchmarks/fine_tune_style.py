"""Does full fine-tuning teach the demo's model a style, and does it keep what it knew?

    python -m tests.benchmarks.fine_tune_style

Trains on 500 pictures whose shapes are striped and whose captions do not say so, with
examples/text_to_image/train_text_to_image.py, and draws 100 prompts before and after.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np

from ppsd.data.demo import PAIRS
from tests.benchmarks.demo_metrics import read_stripes
from tests.benchmarks.goals import Goal, at_least, print_goals
from tests.benchmarks.method_runs import draw, make_data, parser, require_base, train
from tests.benchmarks.prompt_accuracy import choose

MINUTES = 10
IMAGES = 500
MAX_STEPS, LEARNING_RATE = 1300, 2e-3
SCRIPT = "text_to_image/train_text_to_image.py"


def main() -> None:
    args = parser(__doc__, max_steps=MAX_STEPS, learning_rate=LEARNING_RATE).parse_args()
    require_base(args.base)
    data = make_data("stripes", IMAGES, args.output / "stripes")
    run = args.output / "style"
    seconds = train(SCRIPT, run, flags(args.base, data, args.max_steps, args.learning_rate))
    shares = {}
    for name, pipeline in (("before", args.base), ("after", run)):
        shares[name] = measure(pipeline, args.num_samples, args.output / f"style_{name}.png")
        print(f"{name:<8} striped {shares[name][0]:.0%}, shape colour {shares[name][1]:.0%}, ", end="")
        print(f"background {shares[name][2]:.0%}")
    print_goals(
        [
            at_least("striped after fine-tuning", shares["after"][0], 0.9),
            at_least("shape colour kept", shares["after"][1], 0.8),
            at_least("background kept", shares["after"][2], 0.8),
            Goal("time on 2 cores", f"<= {MINUTES} min", f"{seconds / 60:.1f} min", seconds <= 60 * MINUTES),
        ]
    )


def flags(base: Path, data: Path, max_steps: int, learning_rate: float) -> list[str]:
    """Of the script that is measured."""
    return f"""--pretrained_model_name_or_path {base} --train_data_dir {data} --max_steps {max_steps}
        --learning_rate {learning_rate} --warmup_steps 20 --ema_decay 0.99 --cache_latents""".split()


def measure(pipeline: Path, count: int, grid: Path, lora: Optional[Path] = None) -> np.ndarray:
    """[3]: shares of pictures whose shape is striped, has the colour asked for, and stands on the right background."""
    pairs, prompts = choose(PAIRS, count, seed=1)
    images = draw(pipeline, prompts, seed=1, grid=grid, lora=lora)
    return np.mean([read_stripes(image, *pair) for image, pair in zip(images, pairs)], axis=0)


if __name__ == "__main__":
    main()
