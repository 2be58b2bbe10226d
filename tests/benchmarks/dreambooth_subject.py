"""Does DreamBooth bind a subject to its token, and does the prior keep the class what it is?

    python -m tests.benchmarks.dreambooth_subject

Teaches the demo's model a ring (a shape that it has never seen) from 5 pictures, as "a sks circle", with and without
prior preservation, by examples/dreambooth/train_dreambooth.py, the text encoder trained, too; then draws with the token
and without. The class images are circles of other colours than are measured, drawn by the base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from ppsd.data.demo import NAMES, make_caption
from tests.benchmarks.demo_metrics import read_ring
from tests.benchmarks.goals import Goal, at_least, print_goals
from tests.benchmarks.method_runs import draw, make_data, parser, require_base, train
from tests.benchmarks.prompt_accuracy import read_colors

IMAGES = 5
MAX_STEPS, LEARNING_RATE = 500, 1e-3
SCRIPT = "dreambooth/train_dreambooth.py"
SUBJECT = "a sks circle"
COLORS = [(a, b) for a in NAMES for b in NAMES if a != b]
CLASS = "a purple circle on a white background"  # what class images that lack a caption would be drawn by; none does


def main() -> None:
    args = parser(__doc__, max_steps=MAX_STEPS, learning_rate=LEARNING_RATE).parse_args()
    require_base(args.base)
    data, prior = make_data("ring", IMAGES, args.output / "ring"), args.output / "circles"
    draw_class(args.base, prior)
    figures = {"before": measure(args.base, args.num_samples, args.output / "ring_before")}
    common = flags(args.base, data, args.max_steps, args.learning_rate)
    for name, own in (("with prior", prior_flags(prior)), ("without prior", [])):
        run = args.output / name.replace(" ", "_")
        seconds = train(SCRIPT, run, [*common, *own])
        figures[name] = measure(run, args.num_samples, run.with_suffix(".grid"))
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


def flags(base: Path, data: Path, max_steps: int, learning_rate: float) -> list[str]:
    """Of the script that is measured, without the prior."""
    common = f"""--pretrained_model_name_or_path {base} --instance_data_dir {data} --dataset_repeats 100
        --max_steps {max_steps} --learning_rate {learning_rate} --per_device_train_batch_size 8
        --ema_decay 0.98 --train_text_encoder --text_encoder_learning_rate {learning_rate / 2}"""
    return ["--instance_prompt", SUBJECT, *common.split()]


def prior_flags(folder: Path) -> list[str]:
    with_prior = f"--with_prior_preservation --class_data_dir {folder} --num_class_images 90"
    return [*with_prior.split(), "--class_prompt", CLASS]


def draw_class(base: Path, folder: Path) -> None:
    """Images of the class, of colours that are not measured, each with its caption beside it."""
    prompts = [make_caption("circle", *pair) for pair in COLORS[1::2] * 2]
    folder.mkdir(parents=True, exist_ok=True)
    for number, (prompt, image) in enumerate(zip(prompts, draw(base, prompts, seed=6))):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(prompt, encoding="utf-8")


def measure(pipeline: Path, count: int, grid: Path, lora: Optional[Path] = None) -> tuple[float, float, float]:
    """Shares: of pictures by the token with the subject; of the class's that are whole, and of the colour asked for."""
    grid.mkdir(parents=True, exist_ok=True)
    colors = COLORS[::2]
    subject = [read_ring(image) for image in draw(pipeline, [SUBJECT] * count, 2, grid / "subject.png", lora)]
    images = draw(pipeline, [make_caption("circle", *pair) for pair in colors], 3, grid / "class.png", lora)
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
