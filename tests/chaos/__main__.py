"""Long runs of the chaos test: `python -m tests.chaos --kills 200`.

A tiny pretraining is killed at random moments and started again by the same command until it has finished, one run
after the other until the number of kills is reached. After every kill, whatever has a checkpoint's name must be whole;
after every run, weights, EMA, optimizer state, losses and used records must be those of a run that was left alone.
The exit code is 0 only if all of it holds; what differs is said, and its folder is kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

from tests.chaos.campaign import campaign
from tests.chaos.inputs import RECORDS_PER_PART, tiny_inputs
from tests.chaos.moments import KINDS, Pace
from tests.chaos.recipe import Recipe
from tests.chaos.runners import Fresh, Zygote


def parse() -> argparse.Namespace:
    moments = "\n".join(f"  {kind:9} {meaning}" for kind, meaning in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog=f"moments:\n{moments}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="how many processes are killed (20)")
    parser.add_argument("--ranks", type=int, default=1, help="processes of the training; one of them is killed (1)")
    parser.add_argument("--fresh", action="store_true", help="new interpreters instead of forks of one that is ready")
    parser.add_argument("--moments", nargs="+", choices=KINDS, default=list(KINDS), help="all of those below")
    parser.add_argument("--seed", type=int, default=None, help="of the moments (the time)")
    parser.add_argument("--max_steps", type=int, default=60, help="of a run; an epoch has 24 (60)")
    parser.add_argument("--save_steps", type=int, default=3, help="(3)")
    parser.add_argument("--pace", type=int, default=8, help="steps that an attempt gets at most, about (8)")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs go (a temporary folder)")
    parser.add_argument("flags", nargs="*", help="after --: more flags of the training, e.g. -- --sharding stage1")
    return parser.parse_args()


def main() -> None:
    args = parse()
    seed = int(time.time()) if args.seed is None else args.seed
    folder = args.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {seed}, runs in {folder}", flush=True)
    more = dict(zip((flag.lstrip("-") for flag in args.flags[::2]), args.flags[1::2]))
    recipe = Recipe(tiny_inputs(folder), RECORDS_PER_PART, args.max_steps, args.save_steps, args.ranks, more=more)
    pace = Pace(args.pace, recipe.micro_batches, recipe.micro_batch, step_s=0.2 * args.ranks)
    runner = Fresh() if args.fresh else Zygote()
    try:
        kinds, rng = args.moments, random.Random(seed)
        _, lines = campaign(runner, recipe, folder / "runs", rng, kinds, args.kills, pace)
    finally:
        runner.close()
    print("\n".join(lines))
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
