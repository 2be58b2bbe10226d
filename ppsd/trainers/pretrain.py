"""Text-to-image training on LAION-format streams, from parsed arguments to the exported pipeline."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Callable, Optional

import ppsd.compat

import paddle

from ppsd.data.inspection.check import check_data
from ppsd.data.loader import StreamConfig, StreamLoader
from ppsd.data.source import open_sources
from ppsd.diffusion.objective import Objective
from ppsd.diffusion.schedule import NoiseSchedule
from ppsd.formats.remote_settings import configure
from ppsd.models.bundle import load_bundle, load_tokenizer
from ppsd.models.memory import use_memory_efficient_attention, use_recompute
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments, check_arguments
from ppsd.trainers.cached_data import cached_fingerprint, check_cached
from ppsd.trainers.changes import settings
from ppsd.trainers.checkpoint import forget_run, prepare_output_dir
from ppsd.trainers.console import one_line_errors, show_log
from ppsd.trainers.exit_codes import STOPPED
from ppsd.trainers.parsing import parse_arguments
from ppsd.trainers.resuming import continuing_command
from ppsd.trainers.starting import find_start, set_steps, warn_of_changes
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.trainer import StableDiffusionTrainer
from ppsd.types import World

logger = logging.getLogger(__name__)


def main(argv: Optional[list[str]] = None) -> None:
    """Parse and train. What the user can mend ends with one line; exit codes: ppsd.trainers.exit_codes."""
    show_log()
    trainer = one_line_errors(
        lambda: pretrain(*parse_arguments((ModelArguments, DataArguments, SDTrainingArguments), argv))
    )
    code = STOPPED if trainer.watch.stopped else 0
    ppsd.compat.leave_process_group(code)
    if code:
        sys.exit(code)


def pretrain(model: ModelArguments, data: DataArguments, args: SDTrainingArguments) -> StableDiffusionTrainer:
    """Train as the arguments say, and export the pipeline. Continues the newest checkpoint of `output_dir`."""
    check_arguments(model, data, args)
    configure(cache_dir=data.data_cache_dir, cache_gb=data.data_cache_gb)
    cached = cached_fingerprint(open_sources(stream_config(model, data, args)), data.data_format)
    set_device(args.device)
    prepare_output_dir(args.output_dir, model.paths(), clean=args.should_save)
    checkpoint, step = find_start(model, args)
    set_steps(data, args)
    if checkpoint and args.process_index == 0:
        warn_of_changes(Path(checkpoint), model, data, args)
    if data.check_data != "off":
        ppsd.compat.first_alone(lambda: report_data(model, data, args))
    trainer = build_trainer(model, data, args, cached)
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


def report_data(model: ModelArguments, data: DataArguments, args: SDTrainingArguments) -> None:
    """Log what a check of the data finds, before anything large is loaded. Raises ValueError for useless data."""
    tokenizer = load_tokenizer(
        model.pretrained_model_name_or_path, model.tokenizer_name, model_max_length=model.model_max_length
    )
    config = stream_config(model, data, args)
    found = check_data(config, tokenizer, data.check_data, seed=args.seed, num_workers=args.dataloader_num_workers)
    first, *warnings = found.lines()
    logger.info("%s", first)
    for warning in warnings:
        logger.warning("%s", warning)


def build_trainer(
    model: ModelArguments,
    data: DataArguments,
    args: SDTrainingArguments,
    cached: Optional[Mapping[str, Any]] = None,
) -> StableDiffusionTrainer:
    """Everything in memory, nothing trained yet. `cached`: the fingerprint of the data's cached latents."""
    if args.fused_linear:
        ppsd.compat.use_fused_linear()
    paddle.seed(args.seed)
    bundle = load_bundle(
        model.pretrained_model_name_or_path,
        vae=model.vae_name_or_path,
        text_encoder=model.text_encoder_name_or_path,
        unet=model.unet_name_or_path,
        tokenizer=model.tokenizer_name,
        model_max_length=model.model_max_length,
    )
    factor = bundle.vae_scale_factor
    if args.resolution % factor:
        raise ValueError(f"--resolution is {args.resolution}; it must be a multiple of {factor}")
    if cached is not None:
        check_cached(cached, bundle, model, data, args)
    bundle.unet.register_to_config(sample_size=args.resolution // factor)  # what pictures are drawn at by default
    if args.recompute:
        use_recompute(bundle, model.train_text_encoder)
    if args.enable_xformers_memory_efficient_attention:
        use_memory_efficient_attention(bundle)
    where = f"scheduler of {model.pretrained_model_name_or_path}"
    schedule = NoiseSchedule.from_config(bundle.scheduler_config, model.prediction_type, source=where)
    step = DiffusionStep(bundle, Objective(schedule, snr_gamma=model.snr_gamma), model.train_text_encoder)
    return StableDiffusionTrainer(
        bundle,
        step,
        args,
        loader_factory(model, data, args, bundle.tokenizer, cached),
        noise_offset=model.noise_offset,
        input_perturbation=model.input_perturbation,
        num_inference_steps=model.num_inference_steps,
        cached=cached is not None,
        flags=settings(model, data, args),
    )


def loader_factory(
    model: ModelArguments,
    data: DataArguments,
    args: SDTrainingArguments,
    tokenizer: Any,
    cached: Optional[Mapping[str, Any]] = None,
) -> Callable[[Optional[list]], StreamLoader]:
    """How the trainer gets its batches, from the start or from saved positions. `cached`: the latents' fingerprint."""
    config = replace(stream_config(model, data, args), latents=cached)

    def make(positions: Optional[list]) -> StreamLoader:
        return StreamLoader(
            config,
            tokenizer,
            batch_size=args.per_device_train_batch_size,
            world=World(args.dataset_rank, args.dataset_world_size),
            num_workers=args.dataloader_num_workers,
            seed=args.seed,
            batches_per_step=args.gradient_accumulation_steps,
            position=positions,
        )

    return make


def stream_config(model: ModelArguments, data: DataArguments, args: SDTrainingArguments) -> StreamConfig:
    """What the stream is told; most of it are flags of the same name."""
    shared = {field.name for field in fields(StreamConfig)} & {field.name for field in fields(data)}
    return StreamConfig(
        dialect=data.data_format,
        resolution=args.resolution,
        max_length=model.model_max_length,
        **{name: getattr(data, name) for name in shared},
    )


def set_device(device: Optional[str]) -> None:
    try:
        paddle.set_device(device)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--device {device}: {error}") from error
