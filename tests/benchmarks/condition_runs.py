"""What the benchmarks of ControlNet, inpainting and depth have in common: one data set, one command, one table."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Callable, Optional

from tests.benchmarks.goals import Goal, at_least
from tests.benchmarks.method_runs import Trained, make_data, parser, require_base, train_measured

IMAGES = 2000
MINUTES = 15
LEAST_OVERLAP, LEAST_COLOR = 0.80, 0.85

Flags = Callable[[Path, Path, int, float], list[str]]


def condition_parser(doc: str, max_steps: int, learning_rate: float) -> ArgumentParser:
    made = parser(doc, max_steps=max_steps, learning_rate=learning_rate)
    made.add_argument("--run", type=Path, help="Measure what is in this folder, and train nothing.")
    return made


def trained(args: Namespace, script: str, name: str, flags: Flags) -> tuple[Path, Optional[Trained]]:
    """The folder of args.run; or a new one, of the method's script with `flags` on the data set, and what it took."""
    require_base(args.base)
    if args.run is not None:
        return args.run, None
    data = make_data("conditions", IMAGES, args.output / "conditions")
    run = args.output / name
    return run, train_measured(script, run, flags(args.base, data, args.max_steps, args.learning_rate))


def overlap_goals(overlap: float, color: float) -> list[Goal]:
    """Of a mean IoU with the conditions, and the share of pictures with the prompt's colour."""
    return [
        Goal("mean IoU with the condition", f">= {LEAST_OVERLAP:.2f}", f"{overlap:.3f}", overlap >= LEAST_OVERLAP),
        at_least("shape has the prompt's colour", color, LEAST_COLOR),
    ]


def time_goal(took: Optional[Trained]) -> list[Goal]:
    """By the clock; what one core computed stands beside it, as others may have run. None where nothing was trained."""
    if took is None:
        return []
    text = f"{took.seconds / 60:.1f} min ({took.cpu_seconds / 60:.1f} of one core)"
    return [Goal("training, on 2 cores", f"<= {MINUTES} min", text, took.seconds <= 60 * MINUTES)]
