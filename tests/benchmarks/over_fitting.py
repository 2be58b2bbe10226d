"""Does the loss of held-out records tell over-fitting from learning?

    python -m tests.benchmarks.over_fitting

Fine-tunes the demo's model on the striped pictures, once on a few and once on 500, with --validation_split, by
examples/text_to_image/train_text_to_image.py. On few the training loss falls while the held-out loss rises; on many
both fall.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.goals import Goal, print_goals
from tests.benchmarks.method_runs import make_data, parser, require_base, train

FEW, MANY = 12, 500


def main() -> None:
    args = parser(__doc__, max_steps=400, learning_rate=1e-3).parse_args()
    require_base(args.base)
    rises = {}
    for count in (FEW, MANY):
        data, run = make_data("stripes", count, args.output / f"stripes_{count}"), args.output / f"held_out_{count}"
        train(
            "text_to_image/train_text_to_image.py",
            run,
            f"""--pretrained_model_name_or_path {args.base} --train_data_dir {data} --max_steps {args.max_steps}
            --learning_rate {args.learning_rate} --cache_latents --validation_split 0.4 --validation_steps 50
            --save_strategy steps --save_steps {args.max_steps} --ema_decay 0.9""".split(),
        )
        rises[count] = show(count, run / f"checkpoint-{args.max_steps}" / "trainer_state.json")
    few, many = rises[FEW], rises[MANY]
    print_goals(
        [
            Goal(f"held-out loss of {FEW} images, last to least", "rises", f"{few:+.0%}", few > 0.1),
            Goal(f"held-out loss of {MANY} images, last to least", "does not", f"{many:+.0%}", many < 0.02),
        ]
    )


def show(count: int, state: Path) -> float:
    """Print both losses by step; returns by how much the last held-out loss is above the least, as a share."""
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    held_out = {entry["step"]: entry for entry in history if "validation_loss" in entry}
    training = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    print(f"\n{count} images\n{'step':>6}{'training loss':>15}{'held-out loss':>15}{'error':>9}{'rise/err':>9}")
    for step, entry in held_out.items():
        shown = f"{training[step]:>15.4f}" if step in training else " " * 15
        sure = entry["validation_rise"] / entry["validation_rise_error"] if "validation_rise" in entry else 0.0
        print(f"{step:>6}{shown}{entry['validation_loss']:>15.4f}{entry['validation_loss_error']:>9.4f}{sure:>9.1f}")
    losses = [entry["validation_loss"] for entry in held_out.values()]
    return losses[-1] / min(losses) - 1


if __name__ == "__main__":
    main()
