"""Do small adapters learn what full fine-tuning learns, and what do they cost?

    python -m tests.benchmarks.adapters
    python -m tests.benchmarks.adapters --rows lora --tasks style
    python -m tests.benchmarks.adapters --rows

Two tasks on the demo's model: the striped shapes of fine_tune_style.py (the UNet is trained) and the ring of
dreambooth_subject.py (with its prior; the text encoder, too), each by the method's own script, whose weights are
trained in full or, with `--network_module`, beside them. What was measured is kept under --output, and the tables show
all of it, so that rows can be run one at a time; the last line above runs none.

Seconds a step are those of the fastest 50 steps that the log tells of: a machine that is shared slows down some.
"""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ppsd.adapters.base import ALPHA
from ppsd.formats.safetensors_file import SafetensorsFile
from tests.benchmarks import dreambooth_subject, fine_tune_style
from tests.benchmarks.goals import Goal, print_goals
from tests.benchmarks.method_runs import make_data, parser, require_base, train_measured

STYLE, SUBJECT = TASKS = ("style", "subject")
COUNTED = {STYLE: 16, SUBJECT: 8}
"""Images a step in the log's samples/s, which leaves the prior's half of them out."""
POINTS, SHARE = 0.10, 0.03

OUTER = "--network_targets up_blocks.1 down_blocks.0 conv_in conv_out"
"""The demo's blocks at full resolution, where its stripes and rings are drawn: linear layers and convolutions."""
LINEAR = "--network_targets (up_blocks.1|down_blocks.0).attentions attn[12]"
"""No convolutions larger than 1 x 1: the transformers of those blocks, and of the others the attention."""
ROWS: dict[str, dict[str, str]] = {
    "full": {STYLE: "", SUBJECT: ""},
    "lora": {
        STYLE: f"--network_module lora --network_dim 4 {LINEAR} --learning_rate 2e-2",
        SUBJECT: f"--network_module lora --network_dim 4 {LINEAR} self_attn --learning_rate 1e-2"
        " --text_encoder_learning_rate 5e-3",
    },
    "locon": {
        STYLE: f"--network_module locon --network_dim 4 {OUTER} --learning_rate 2e-2",
        SUBJECT: f"--network_module locon --network_dim 4 {OUTER} self_attn --learning_rate 1e-2"
        " --text_encoder_learning_rate 5e-3",
    },
    "loha": {
        STYLE: f"--network_module loha --network_dim 2 {OUTER} --learning_rate 2e-2",
        SUBJECT: f"--network_module loha --network_dim 2 {OUTER} self_attn --learning_rate 1e-2"
        " --text_encoder_learning_rate 5e-3",
    },
    "lokr": {
        STYLE: f"--network_module lokr --network_dim 7 --factor 2 {OUTER} --learning_rate 1.5e-2",
        SUBJECT: f"--network_module lokr --network_dim 7 --factor 2 {OUTER} self_attn --learning_rate 8e-3"
        " --text_encoder_learning_rate 4e-3",
    },
}
"""What each row adds to the flags of full fine-tuning. The sizes are those of LoRA's rank 4: loha's rank 2 is twice two
matrices, and lokr's 7 is of blocks of half the width."""


@dataclass(frozen=True)
class Result:
    """Of one row and task. scores: striped, shape colour and background kept; or of the subject, see `measure`."""

    parameters: int
    file_bytes: int
    minutes: float
    step_seconds: float
    peak_bytes: int
    scores: list[float]


def main() -> None:
    made = parser(__doc__, max_steps=None, learning_rate=None)
    made.add_argument("--rows", nargs="*", default=list(ROWS), help="Which to run; none: only show what is there.")
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    args = made.parse_args()
    if not set(args.rows) <= set(ROWS):
        made.error(f"--rows {' '.join(args.rows)}: there are {', '.join(ROWS)}")
    require_base(args.base)
    folder = args.output / "adapters"
    for task in args.tasks:
        for row in args.rows:
            result = run(args, row, task, folder / f"{task}_{row}")
            (folder / f"{task}_{row}.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
    goals = [goal for task in TASKS for goal in show(task, read_results(folder, task))]
    print_goals(goals)


def run(args: Namespace, row: str, task: str, output: Path) -> Result:
    """Train and measure. args.max_steps, args.learning_rate: instead of the recipe's, where they are given."""
    method, data = (fine_tune_style, "stripes") if task == STYLE else (dreambooth_subject, "ring")
    images = make_data(data, method.IMAGES, args.output / data)
    flags = method.flags(args.base, images, method.MAX_STEPS, method.LEARNING_RATE)
    if task == SUBJECT:
        prior = args.output / "circles"
        if not prior.is_dir():
            dreambooth_subject.draw_class(args.base, prior)
        flags += dreambooth_subject.prior_flags(prior)
    flags += ROWS[row][task].split()
    for name in ("max_steps", "learning_rate"):
        if getattr(args, name) is not None:
            flags += [f"--{name}", getattr(args, name)]
    trained = train_measured(method.SCRIPT, output, flags)
    file = None if row == "full" else output / f"{output.name}.safetensors"
    parts = ["unet"] if task == STYLE else ["unet", "text_encoder"]
    files = [path for part in parts for path in (output / part).glob("*.safetensors")] if file is None else [file]
    grid = output / "drawn.png" if task == STYLE else output
    scores = method.measure(args.base if file else output, args.num_samples, grid, file)
    return Result(
        sum(map(count, files)),
        sum(path.stat().st_size for path in files),
        trained.seconds / 60,
        COUNTED[task] / max(float(rate) for rate in re.findall(r"([0-9.]+) samples/s", trained.log)),
        trained.peak_bytes,
        [float(score) for score in scores],
    )


def count(file: Path) -> int:
    """Numbers in a file that are trained."""
    specs = SafetensorsFile(file).specs.items()
    return sum(math.prod(spec.shape) for name, spec in specs if not name.endswith(f".{ALPHA}"))


def read_results(folder: Path, task: str) -> dict[str, Result]:
    """By row, of those that have been measured."""
    files = {row: folder / f"{task}_{row}.json" for row in ROWS}
    return {
        row: Result(**json.loads(file.read_text(encoding="utf-8"))) for row, file in files.items() if file.is_file()
    }


def show(task: str, results: dict[str, Result]) -> list[Goal]:
    """Print a table; returns what was wanted of it."""
    names = ("striped", "colour", "background") if task == STYLE else ("subject", "class plain", "its colour")
    head = f"{'trained':>9} {'share':>7} {'file':>9} {'s a step':>9} {'of full':>8} {'memory':>8} {'minutes':>8}"
    print(f"\n{task:<8} {head} " + " ".join(f"{name:>11}" for name in names))
    full = results.get("full")
    for row, result in results.items():
        print(f"{row:<8} {costs(result, full)} " + " ".join(f"{score:>11.0%}" for score in result.scores))
    if full is None:
        return []
    adapters = {row: result for row, result in results.items() if row != "full"}
    return [goal for row, result in adapters.items() for goal in goals_of(f"{task}, {row}", result, full)]


def costs(result: Result, full: Optional[Result]) -> str:
    of_full = ("", "")
    if full is not None:
        of_full = (f"{result.parameters / full.parameters:.2%}", f"{result.step_seconds / full.step_seconds:.2f}")
    return (
        f"{result.parameters:>9} {of_full[0]:>7} {result.file_bytes / 2**10:>6.0f} KB {result.step_seconds:>9.3f}"
        f" {of_full[1]:>8} {result.peak_bytes / 2**20:>5.0f} MB {result.minutes:>8.1f}"
    )


def goals_of(what: str, result: Result, full: Result) -> list[Goal]:
    """Of an adapter, whose first score is that of what it is to learn."""
    own, wanted, share = result.scores[0], full.scores[0] - POINTS, result.parameters / full.parameters
    return [
        Goal(f"{what}: learned", f">= {wanted:.0%} (full - {POINTS:.0%})", f"{own:.0%}", own >= wanted - 1e-9),
        Goal(f"{what}: parameters", f"< {SHARE:.0%} of full", f"{share:.2%}", share < SHARE),
    ]


if __name__ == "__main__":
    main()
