"""A training run of any method, from the command line to the export."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Optional

import ppsd.compat

import paddle

from ppsd.formats.remote_settings import configure
from ppsd.trainers.building import build_trainer, report_data, stream_config
from ppsd.trainers.cached_data import cached_fingerprint
from ppsd.trainers.checkpoint import forget_run, prepare_output_dir
from ppsd.trainers.console import one_line_errors, show_log
from ppsd.trainers.data_summary import summarize
from ppsd.trainers.exit_codes import STOPPED
from ppsd.trainers.held_out import split
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.resuming import continuing_command
from ppsd.trainers.run import Run
from ppsd.trainers.starting import find_start, set_steps, warn_of_changes
from ppsd.trainers.trainer import StableDiffusionTrainer

logger = logging.getLogger(__name__)


def main(method: type[StableDiffusionTrainer], argv: Optional[list[str]] = None) -> None:
    """Parse and train. What the user can mend ends with one line; exit codes: ppsd.trainers.exit_codes."""
    show_log()
    trainer = one_line_errors(lambda: train(method, parse_run(method.own_arguments, argv, method.defaults)))
    code = STOPPED if trainer.watch.stopped else 0
    ppsd.compat.leave_process_group(code)
    if code:
        sys.exit(code)


def train(method: type[StableDiffusionTrainer], run: Run) -> StableDiffusionTrainer:
    """Train as the flags say, and export. Continues the newest checkpoint of `output_dir`."""
    args = run.args
    run.check()
    method.check(run)
    method.preview_files(run)  # raises what can be mended before much is read
    configure(cache_dir=run.data.data_cache_dir, cache_gb=run.data.data_cache_gb)
    set_device(args.device)
    prepare_output_dir(args.output_dir, run.paths(), args.should_save, run.image_folders())
    checkpoint, step = find_start(run, method.trained_names(run))
    method.prepare(run)
    config = stream_config(method, run)
    sources, held_out = split(method.open_data(run, config), args.validation_split)
    if run.model.network_module and args.should_save:
        run.data_summary = summarize(sources)
    cached = cached_fingerprint(sources, run.data.data_format)
    set_steps(run, sources, config, method.batch_size(run))
    args.check_epochs(run.steps_per_epoch is not None)
    if checkpoint and args.process_index == 0:
        warn_of_changes(Path(checkpoint), run)
    if run.data.check_data != "off":
        ppsd.compat.first_alone(lambda: report_data(method, run, sources))
    trainer = build_trainer(method, run, sources, cached, held_out)
    if not args.do_train:
        logger.info("--do_train False: flags, data and models are fine; nothing was trained")
        return trainer
    if checkpoint and step >= args.max_steps:
        logger.info("%s has all of --max_steps %d: nothing left to train", checkpoint, args.max_steps)
        trainer.load_to_export(checkpoint)
    else:
        if args.overwrite_output_dir and args.should_save:
            forget_run(args.output_dir, checkpoint)
        if checkpoint:
            logger.info("continuing from %s (--overwrite_output_dir starts over)", checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.watch.stopped:
        kept = trainer.saved or checkpoint
        command = continuing_command(args.resume_from_checkpoint, args.overwrite_output_dir)
        newest = f"{command} continues {kept}" if kept else "there is no checkpoint yet"
        logger.info("stopped by %s after step %d; %s", trainer.watch.reason, trainer.state.global_step, newest)
        return trainer
    trainer.export()
    return trainer


def set_device(device: Optional[str]) -> None:
    try:
        paddle.set_device(device)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--device {device}: {error}") from error
