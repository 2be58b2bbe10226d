"""Does textual inversion find words for a subject?

    python -m tests.benchmarks.textual_inversion_subject

Learns a token from 5 pictures by examples/textual_inversion/train_textual_inversion.py and draws with it. star: two
colours that the demo's model has never seen together; it can draw either. ring: a shape with a hole, for which its
UNet, which is not trained here, has no drawing.
"""

from __future__ import annotations

import numpy as np

from ppsd.data.demo_kinds import STAR_COLORS
from tests.benchmarks.demo_metrics import read_ring
from tests.benchmarks.goals import at_least, print_goals
from tests.benchmarks.method_runs import draw, make_data, parser, require_base, train
from tests.benchmarks.prompt_accuracy import read_colors

IMAGES = 5
TOKEN = "<toy>"


def main() -> None:
    made = parser(__doc__, max_steps=400, learning_rate=5e-2)
    made.add_argument("--num_vectors", type=int, default=4)
    made.add_argument("--subjects", nargs="+", choices=["star", "ring"], default=["star", "ring"])
    args = made.parse_args()
    require_base(args.base)
    goals = []
    for subject in args.subjects:
        data, run = make_data(subject, IMAGES, args.output / subject), args.output / f"inverted_{subject}"
        seconds = train(
            "textual_inversion/train_textual_inversion.py",
            run,
            f"""--pretrained_model_name_or_path {args.base} --train_data_dir {data} --max_steps {args.max_steps}
            --learning_rate {args.learning_rate} --placeholder_token {TOKEN} --initializer_token {subject}
            --num_vectors {args.num_vectors} --ema_decay 0.95 --save_as_full_pipeline""".split(),
        )
        pictures = draw(run, [f"a {TOKEN}"] * args.num_samples, 4, args.output / f"inverted_{subject}.png")
        present = np.mean([is_there(subject, picture) for picture in pictures])
        print(f"{subject}: trained in {seconds / 60:.1f} min")
        goals.append(at_least(f"{subject} by its token", float(present), 0.6))
    print_goals(goals)


def is_there(subject: str, picture: np.ndarray) -> bool:
    if subject == "ring":
        ring = read_ring(picture)
        return ring.hole and ring.color
    background, color = read_colors(picture)
    return (color, background) == STAR_COLORS


if __name__ == "__main__":
    main()
