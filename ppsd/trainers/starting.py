"""What a run begins with: a checkpoint or none, what differs from when that was saved, and how many steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

import paddle

from ppsd.data.config import StreamConfig
from ppsd.data.source import records_per_epoch
from ppsd.trainers.changes import changes, settings
from ppsd.trainers.manifest import read_manifest
from ppsd.trainers.processes import everyones, from_first
from ppsd.trainers.resuming import check_parts, check_same_disk, choose_checkpoint, newest_step
from ppsd.trainers.run import Run
from ppsd.trainers.run_state import read_state

logger = logging.getLogger(__name__)


def find_start(run: Run, trained: Iterable[str]) -> tuple[Optional[str], int]:
    """The checkpoint that this run continues, which the first process chooses, and its step; or None and 0.

    trained: names of the layers that the run trains.

    Raises ValueError where it cannot be continued. --ignore_data_skip and --ignore_load_lr_and_optim are for the
    checkpoint that --resume_from_checkpoint names, not for those that the same command has saved since.
    """
    args = run.args
    asked, overwrite = args.resume_from_checkpoint, args.overwrite_output_dir

    def choose() -> tuple[Optional[str], int]:
        found = choose_checkpoint(args.output_dir, asked, overwrite)
        if found is None:
            return None, 0
        check_parts(Path(found), set(trained), args.use_ema)
        return found, read_manifest(Path(found)).step

    found, step = from_first(choose)
    if asked in (None, "latest") and not overwrite:
        check_same_disk(everyones(newest_step(args.output_dir)), args.output_dir, args.save_on_each_node)
    elif found not in (None, asked):
        args.restart_data = args.ignore_load_lr_and_optim = False
    elif args.ignore_load_lr_and_optim:
        step = 0
    return found, step


def warn_of_changes(checkpoint: Path, run: Run) -> None:
    """One warning of all that makes the continued run another than the saved one would have been."""
    state = read_state(checkpoint)
    found = changes(state["flags"], settings(run), restart_data=run.args.restart_data)
    saved_by, now = state["versions"]["paddle"], paddle.__version__
    if saved_by != now:
        found.append(f"paddle was {saved_by} and is {now}")
    if found:
        logger.warning("%s goes on otherwise than it was begun: %s", checkpoint, "; ".join(found))


def set_steps(run: Run, sources: Sequence[Any], config: StreamConfig, batch_size: int) -> None:
    """Make epochs whole optimizer steps, and `max_steps` what `num_train_epochs` asks for.

    batch_size: samples that a device sees at a time. Raises ValueError where nothing says how long the run is.
    """
    data, args = run.data, run.args
    batch = batch_size * args.dataset_world_size * args.gradient_accumulation_steps
    if data.num_records is None:
        known = records_per_epoch(sources, config, batch_size)
        if known is None and args.max_steps <= 0:
            raise ValueError(
                "a stream has no known length: give --max_steps, or --num_records (an epoch's) with --num_train_epochs"
            )
        data.num_records = known and math.ceil(known / batch) * batch
    if data.num_records is None:
        return
    if data.num_records < batch:
        raise ValueError(f"--num_records is {data.num_records}, less than the {batch} records of one step")
    data.num_records -= data.num_records % batch
    run.steps_per_epoch = data.num_records // batch
    if args.max_steps <= 0:
        args.max_steps = math.ceil(args.num_train_epochs * run.steps_per_epoch)
