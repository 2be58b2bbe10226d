"""Draw one grid, a row for each checkpoint and a column for each prompt, all of a column from the same noise.

    python tools/compare_checkpoints.py output/run --prompts "a red circle" "a blue square" --output compare.png
    python tools/compare_checkpoints.py output/run/checkpoint-500 output/other --prompts_file prompts.txt --base --ema
    python tools/compare_checkpoints.py output/control --image outlines.png --prompts "a red circle" "a blue square"

Writes the grid as a PNG and beside it, as .html, the same as a page that needs no other file. A folder of a run stands
for all of its whole checkpoints. Checkpoints go over the pipeline that their run began with, unless --pipeline names
another. One model is in memory at a time. Checkpoints of ControlNets, of inpainting and of depth models draw after
--image, --mask and --depth as eval.py does; the first row shows these.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppsd import compat  # isort: skip  before paddle

from ppsd.data.command_line import Parser, natural, positive, run_tool
from ppsd.formats.atomic import atomic_write
from ppsd.sampling.compare import draw_rows
from ppsd.sampling.compare_page import page, sheet
from ppsd.sampling.condition_flags import ConditionFlags, add_condition_flags
from ppsd.sampling.grid import save_png
from ppsd.sampling.prompts import Prompt, read_prompts
from ppsd.sampling.scenes import with_prompts
from ppsd.trainers.candidates import find_candidates
from ppsd.trainers.checkpoint import require_writable
from ppsd.trainers.running import set_device

compat.apply()


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line; exits with code 2 when it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("paths", nargs="+", metavar="RUN_OR_CHECKPOINT", help="Folders of runs, checkpoints or pipelines; hub names.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompts", nargs="+", help="One or more prompts, each in quotes.")
    what.add_argument(
        "--prompts_file", help="One prompt a line, with kohya's options n, w, h, d, l, s as in --sample_prompts."
    )
    add(
        "--output",
        type=Path,
        default=Path("compare.png"),
        help="The grid; the page is beside it. Default: %(default)s.",
    )
    add("--pipeline", help="What checkpoints go over. Default: what their run began with.")
    add("--base", action="store_true", help="The first row is what the runs began with.")
    add("--ema", action="store_true", help="Checkpoints with averaged weights have a row of these, too.")
    add("--num_images_per_prompt", type=positive, default=1, help="Default: %(default)s.")
    add("--guidance_scale", type=float, default=7.5, help="1 turns guidance off. Default: %(default)s.")
    add("--num_inference_steps", type=positive, default=50, help="Denoising steps. Default: %(default)s.")
    add("--seed", type=natural, default=0, help="Same seed, same noise. Default: %(default)s.")
    add("--height", type=positive, help="Pixels. Default: what the UNet of the first row was trained at.")
    add("--width", type=positive, help="Pixels. Default: what the UNet of the first row was trained at.")
    add("--batch_size", type=positive, default=8, help="Pictures drawn at once. Default: %(default)s.")
    add_condition_flags(parser)
    add("--device", help="gpu, gpu:1, cpu, npu, xpu ... Default: a GPU where paddle has one, else the CPU.")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    if args.output.suffix != ".png":
        raise ValueError(f"--output: {args.output} must end in .png")
    require_writable(args.output.parent, "--output")
    if args.device is not None:
        set_device(args.device)
    prompts = [Prompt(text) for text in args.prompts or []] or read_prompts(args.prompts_file, "--prompts_file")
    flags = ConditionFlags.of(args)
    prompts, scenes = with_prompts(prompts, flags.scenes())
    if scenes and any(prompt.width or prompt.height for prompt in prompts):
        raise ValueError(
            "--prompts_file: with pictures to draw after all prompts have the same size: --width, --height"
        )
    candidates = find_candidates(args.paths, args.pipeline, args.base, args.ema)
    names = ("guidance_scale", "num_inference_steps", "seed", "height", "width", "batch_size")
    settings = {name: getattr(args, name) for name in names}
    rows = list(draw_rows(candidates, prompts, args.num_images_per_prompt, flags=flags, scenes=scenes, **settings))
    columns, labels = [prompt.text for prompt in prompts], [candidate.label for candidate in candidates]
    labels = ["drawn after", *labels] if scenes else labels
    save_png(args.output, sheet(columns, labels, rows))
    about = f"seed {args.seed}, guidance {args.guidance_scale}, {args.num_inference_steps} steps; one noise a column"
    with atomic_write(args.output.with_suffix(".html")) as file:
        file.write(page(args.output.stem, about, columns, labels, rows).encode())
    print(f"{len(rows)} rows, {len(columns)} columns: {args.output} and {args.output.with_suffix('.html')}")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_tool(__file__, run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
