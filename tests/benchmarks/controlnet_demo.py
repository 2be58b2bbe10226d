"""Does a ControlNet make the demo's model draw its shapes where outlines say, in the colours that prompts say?

    python -m tests.benchmarks.controlnet_demo

Trains on 2000 pictures and their outlines with examples/controlnet/train_controlnet.py, then draws 100 held-out
conditions with the ControlNet and without, from the same noise. How much of a drawn shape is where it should be is the
intersection over union of its region (see `region` in regions.py) and the shape's own mask. The best that the VAE
allows is that of the true pictures after they went through it.
"""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.condition_runs import condition_parser, overlap_goals, time_goal, trained
from tests.benchmarks.goals import print_goals

MAX_STEPS, LEARNING_RATE = 1500, 2e-3
SCRIPT = "controlnet/train_controlnet.py"


def main() -> None:
    args = condition_parser(__doc__, MAX_STEPS, LEARNING_RATE).parse_args()
    run, took = trained(args, SCRIPT, "controlnet", flags)
    overlap, color = measure(args.base, run, args.num_samples, args.output / "controlnet.png")
    print_goals([*overlap_goals(overlap, color), *time_goal(took)])


def flags(base: Path, data: Path, max_steps: int, learning_rate: float) -> list[str]:
    """Of the script that is measured."""
    return f"""--pretrained_model_name_or_path {base} --train_data_dir {data} --max_steps {max_steps}
        --learning_rate {learning_rate} --warmup_steps 50 --ema_decay 0.99 --cache_latents
        --proportion_empty_prompts 0.1
        --conditioning_embedding_out_channels 8 16 32 64""".split()


def measure(base: Path, run: Path, count: int, grid: Path) -> tuple[float, float]:
    """Mean overlap and share of right shape colours of the ControlNet's pictures; prints the base's beside them."""
    from ppsd.models.controlnet import load_controlnet
    from ppsd.sampling.control import generate_controlled, with_controlnets
    from ppsd.sampling.pipeline import generate, load_pipeline
    from tests.benchmarks.held_out_conditions import SETTINGS, chance, held_out, read, sheet, show, through_vae

    data = held_out(count)
    pipe = load_pipeline(str(base))
    alone = generate(pipe, data.prompts, height=data.masks.shape[1], width=data.masks.shape[2], **SETTINGS)
    controlled = with_controlnets(pipe, [load_controlnet(str(run), pipe.unet)])
    drawn = generate_controlled(controlled, data.prompts, [data.outlines], **SETTINGS)
    rows = {
        "the model alone": read(alone, data),
        "with the ControlNet": read(drawn, data),
        "true pictures through the VAE": read(through_vae(pipe.vae, data.pictures), data),
    }
    show(rows)
    print(f"{'by chance: of the next condition':<36}{chance(drawn, data):>10.3f}")
    sheet(grid, data.outlines, alone, drawn, data.pictures)
    overlap, _, color, _ = rows["with the ControlNet"]
    return overlap, color


if __name__ == "__main__":
    main()
