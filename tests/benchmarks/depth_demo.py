"""Does a depth model draw the demo's shapes where depth maps say, in the colours that prompts say?

    python -m tests.benchmarks.depth_demo

Makes a UNet with 5 input channels of the demo's model and trains it on 2000 pictures and their depth maps with
examples/depth2img/train_depth.py, then draws 100 held-out depth maps with it, and their prompts with the demo's model,
from the same noise. Scores as controlnet_demo.py does.
"""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.condition_runs import condition_parser, overlap_goals, time_goal, trained
from tests.benchmarks.goals import print_goals

MAX_STEPS, LEARNING_RATE = 1200, 2e-3
SCRIPT = "depth2img/train_depth.py"


def main() -> None:
    args = condition_parser(__doc__, MAX_STEPS, LEARNING_RATE).parse_args()
    run, took = trained(args, SCRIPT, "depth", flags)
    overlap, color = measure(args.base, run, args.num_samples, args.output / "depth.png")
    print_goals([*overlap_goals(overlap, color), *time_goal(took)])


def flags(base: Path, data: Path, max_steps: int, learning_rate: float) -> list[str]:
    """Of the script that is measured."""
    return f"""--pretrained_model_name_or_path {base} --train_data_dir {data} --max_steps {max_steps}
        --learning_rate {learning_rate} --warmup_steps 50 --ema_decay 0.99 --cache_latents""".split()


def measure(base: Path, run: Path, count: int, grid: Path) -> tuple[float, float]:
    """Mean overlap and share of right shape colours of the depth model's pictures; prints the base's beside them."""
    import numpy as np

    from ppsd.models.widening import DEPTH
    from ppsd.sampling.depth import generate_from_depth
    from ppsd.sampling.pipeline import generate, load_pipeline
    from tests.benchmarks.held_out_conditions import SETTINGS, chance, held_out, read, sheet, show, through_vae

    data = held_out(count)
    pipe = load_pipeline(str(base))
    alone = generate(pipe, data.prompts, height=data.masks.shape[1], width=data.masks.shape[2], **SETTINGS)
    drawn = generate_from_depth(load_pipeline(str(run), concat_channels=DEPTH), data.prompts, data.depths, **SETTINGS)
    rows = {
        "the model alone": read(alone, data),
        "with depth": read(drawn, data),
        "true pictures through the VAE": read(through_vae(pipe.vae, data.pictures), data),
    }
    show(rows)
    print(f"{'by chance: of the next condition':<36}{chance(drawn, data):>10.3f}")
    depths = np.rint(data.depths * 255).astype(np.uint8)[..., None].repeat(3, axis=-1)
    sheet(grid, depths, alone, drawn, data.pictures)
    overlap, _, color, _ = rows["with depth"]
    return overlap, color


if __name__ == "__main__":
    main()
