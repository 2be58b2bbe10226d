"""Does DreamBooth bind a subject to its token, and does the prior keep the class what it is?

    python -m tests.benchmarks.dreambooth_subject

Teaches the demo's model a ring (a shape that it has never seen) from 5 pictures, as "a sks circle", with and without
prior preservation, by examples/dreambooth/train_dreambooth.py, the text encoder trained, too; then draws with the token
and without. The class images are circles of other colours than are measured, drawn by the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ppsd.data.demo import NAMES, make_caption
from tests.benchmarks.demo_metrics import read_ring
from tests.benchmarks.goals import Goal, at_least, print_goals
from tests.benchmarks.method_runs import draw, make_data, parser, require_base, train
from tests.benchmarks.prompt_accuracy import read_colors

IMAGES = 5
SUBJECT = "a sks circle"
CLASS = "a purple circle on a white background"  # what class images that lack a caption would be drawn by; none does


def main() -> None:
    args = parser(__doc__, max_steps=500, learning_rate=1e-3).parse_args()
    require_base(args.base)
    data, prior = make_data("ring", IMAGES, args.output / "ring"), args.output / "circles"
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b]
    colors = pairs[::2]
    class_prompts = [make_caption("circle", *pair) for pair in colors]
    draw_class(args.base, prior, [make_caption("circle", *pair) for pair in pairs[1::2] * 2])
    figures = {"before": measure(args.base, args.num_samples, class_prompts, colors, args.output / "ring_before")}
    common = f"""--pretrained_model_name_or_path {args.base} --instance_data_dir {data} --dataset_repeats 100
        --max_steps {args.max_steps} --learning_rate {args.learning_rate} --per_device_train_batch_size 8
        --ema_decay 0.98 --train_text_encoder --text_encoder_learning_rate {args.learning_rate / 2}"""
    with_prior = f"--with_prior_preservation --class_data_dir {prior} --num_class_images 90"
    for name, flags in (("with prior", [*with_prior.split(), "--class_prompt", CLASS]), ("without prior", [])):
        run = args.output / name.replace(" ", "_")
        seconds = train(
            "dreambooth/train_dreambooth.py",
            run,
            ["--instance_prompt", SUBJECT, *common.split(), *flags],
        )
        figures[name] = measure(run, args.num_samples, class_prompts, colors, run.with_suffix(".grid"))
        print(f"{name}: trained in {seconds / 60:.1f} min")
    print(f"\n{'':<16}{'subject by token':>18}{'class is plain':>18}{'class has its colour':>22}")
    for name, shares in figures.items():
        print(f"{name:<16}{shares[0]:>18.0%}{shares[1]:>18.0%}{shares[2]:>22.0%}")
    kept, lost = figures["with prior"], figures["without prior"]
    print_goals(
        [
            at_least("subject by its token", kept[0], 0.8),
            at_least("class without the token, with prior", kept[1], 0.9),
            Goal("class without the prior", "fewer", f"{lost[1]:.0%}", lost[1] < kept[1]),
        ]
    )


def draw_class(base: Path, folder: Path, prompts: Sequence[str]) -> None:
    """Images of the class, of colours that are not measured, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (prompt, image) in enumerate(zip(prompts, draw(base, prompts, seed=6))):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(prompt, encoding="utf-8")


def measure(pipeline, count, class_prompts, colors, grid) -> tuple[float, float, float]:  # type: ignore[no-untyped-def]
    """Shares: of pictures by the token with the subject; of the class's that are whole, and of the colour asked for."""
    grid.mkdir(parents=True, exist_ok=True)
    subject = [read_ring(image) for image in draw(pipeline, [SUBJECT] * count, 2, grid / "subject.png")]
    images = draw(pipeline, class_prompts, 3, grid / "class.png")
    plain = [(ring := read_ring(image)).shape and not ring.hole for image in images]
    right = [
        read_colors(image)[0] == pair[1] and read_colors(image)[1] == pair[0] for image, pair in zip(images, colors)
    ]
    return (
        float(np.mean([ring.hole and ring.color for ring in subject])),
        float(np.mean(plain)),
        float(np.mean(np.array(plain) & np.array(right))),
    )


if __name__ == "__main__":
    main()
