"""Does full fine-tuning teach the demo's model a style, and does it keep what it knew?

    python -m tests.benchmarks.fine_tune_style

Trains on 500 pictures whose shapes are striped and whose captions do not say so, with
examples/text_to_image/train_text_to_image.py, and draws 100 prompts before and after.
"""

from __future__ import annotations

import numpy as np

from ppsd.data.demo import PAIRS
from tests.benchmarks.demo_metrics import read_stripes
from tests.benchmarks.goals import Goal, at_least, print_goals
from tests.benchmarks.method_runs import draw, make_data, parser, require_base, train
from tests.benchmarks.prompt_accuracy import choose

MINUTES = 10
IMAGES = 500


def main() -> None:
    args = parser(__doc__, max_steps=1300, learning_rate=2e-3).parse_args()
    require_base(args.base)
    data = make_data("stripes", IMAGES, args.output / "stripes")
    run = args.output / "style"
    seconds = train(
        "text_to_image/train_text_to_image.py",
        run,
        f"""--pretrained_model_name_or_path {args.base} --train_data_dir {data} --max_steps {args.max_steps}
        --learning_rate {args.learning_rate} --warmup_steps 20 --ema_decay 0.99 --cache_latents""".split(),
    )
    pairs, prompts = choose(PAIRS, args.num_samples, seed=1)
    shares = {}
    for name, pipeline in (("before", args.base), ("after", run)):
        images = draw(pipeline, prompts, seed=1, grid=args.output / f"style_{name}.png")
        shares[name] = np.mean([read_stripes(image, *pair) for image, pair in zip(images, pairs)], axis=0)
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


if __name__ == "__main__":
    main()
