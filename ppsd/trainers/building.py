"""The parts of a run in memory: models, step, batches, trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Optional

import ppsd.compat

import paddle

from ppsd.data.config import StreamConfig
from ppsd.data.inspection.check import check_data
from ppsd.data.loader import StreamLoader
from ppsd.diffusion.objective import Objective
from ppsd.diffusion.schedule import NoiseSchedule
from ppsd.models.bundle import Bundle, load_bundle, load_tokenizer
from ppsd.models.memory import use_memory_efficient_attention, use_recompute, use_vae_savings
from ppsd.models.placeholder import add_tokens
from ppsd.sampling.text import read_text_settings
from ppsd.trainers.arguments import ModelArguments
from ppsd.trainers.cached_data import check_cached
from ppsd.trainers.folder_cache import cached_sources
from ppsd.trainers.held_out import hold_out, split
from ppsd.trainers.latent_cache import TEXT_DEFAULTS
from ppsd.trainers.run import Run
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.trained import trains_text
from ppsd.trainers.trainer import StableDiffusionTrainer
from ppsd.types import World

logger = logging.getLogger(__name__)


def stream_config(method: type[StableDiffusionTrainer], run: Run) -> StreamConfig:
    """What the stream is told; most of it are flags of the same name."""
    known = {field.name for field in fields(StreamConfig)}
    groups = [run.data, *([] if run.own is None else [run.own])]
    flags = {each.name: getattr(group, each.name) for group in groups for each in fields(group) if each.name in known}
    return method.data_config(
        run,
        StreamConfig(
            dialect=run.data.data_format,
            resolution=run.args.resolution,
            max_length=run.model.model_max_length,
            max_token_length=run.model.max_token_length,
            conditions=method.conditions,
            **flags,
        ),
    )


def report_data(method: type[StableDiffusionTrainer], run: Run, sources: Sequence[Any]) -> None:
    """Log what a check of the data finds, before anything large is loaded. Raises ValueError for useless data."""
    model, args = run.model, run.args
    tokenizer = load_tokenizer(
        model.pretrained_model_name_or_path, model.tokenizer_name, model_max_length=model.model_max_length
    )
    if model.placeholder_token:
        add_tokens(tokenizer, {each.token: each.vectors for each in model.placeholders()})
    found = check_data(
        stream_config(method, run),
        tokenizer,
        run.data.check_data,
        seed=args.seed,
        num_workers=args.dataloader_num_workers,
        sources=sources,
    )
    first, *warnings = found.lines()
    logger.info("%s", first)
    for warning in warnings:
        logger.warning("%s", warning)


def build_trainer(
    method: type[StableDiffusionTrainer],
    run: Run,
    sources: Optional[Sequence[Any]] = None,
    cached: Optional[Mapping[str, Any]] = None,
    held_out: Sequence[Any] = (),
) -> StableDiffusionTrainer:
    """Everything in memory, nothing trained yet. `cached`: the fingerprint of the data's cached latents.

    held_out: sources of records that are not trained on (see ppsd.trainers.held_out.split).
    """
    bundle = build_bundle(run, method.concat_channels)
    if method.needs_pixels and (cached is not None or run.data.cache_latents):
        raise ValueError("cached latents are not enough here, where pictures are masked anew each time: give images")
    if cached is not None:
        check_cached(cached, bundle, run.model, run.data, run.args)
    config = replace(stream_config(method, run), latents=cached)
    if sources is None or cached is not None:  # the readers of cached latents check each part's fingerprint
        sources, held_out = split(method.open_data(run, config), run.args.validation_split)
    plain = config
    sources, config = cached_sources(run, bundle, sources, config, method.trained_names(run))
    step = build_step(method, run, bundle)
    make_loader = loader_factory(method, run, bundle.tokenizer, sources, config)
    most, pixels = run.args.max_validation_samples, method.needs_pixels
    measured = hold_out(held_out, plain, bundle, most, pixels) if held_out else None
    either = cached is not None or run.data.cache_latents
    return method(run, bundle, step, make_loader, cached=either, held_out=measured)


def load_models(run: Run, concat_channels: int = 0) -> Bundle:
    """The models that the flags name, on the device, as they are. concat_channels: of Method, which a UNet may lack."""
    model, args = run.model, run.args
    if args.fused_linear:
        ppsd.compat.use_fused_linear()
    paddle.seed(args.seed)
    return load_bundle(
        model.pretrained_model_name_or_path,
        vae=model.vae_name_or_path,
        text_encoder=model.text_encoder_name_or_path,
        unet=model.unet_name_or_path,
        tokenizer=model.tokenizer_name,
        model_max_length=model.model_max_length,
        concat_channels=concat_channels,
        widen=concat_channels > 0 and not model.network_module,
    )


def warn_of_text(model: ModelArguments) -> None:
    """Say it where a pipeline that ppsd trained was told to read captions otherwise."""
    noted, told = read_text_settings(Path(model.pretrained_model_name_or_path)), model.text_settings
    for name, usual in TEXT_DEFAULTS.items():
        before, now = (getattr(settings, name) or usual for settings in (noted or told, told))
        if before != now:
            logger.warning("--%s is %s; %s was trained with %s", name, now, model.pretrained_model_name_or_path, before)


def build_bundle(run: Run, concat_channels: int = 0) -> Bundle:
    """The models of a training run."""
    bundle, args = load_models(run, concat_channels), run.args
    warn_of_text(run.model)
    factor = bundle.vae_scale_factor
    if args.resolution % factor:
        raise ValueError(f"--resolution is {args.resolution}; it must be a multiple of {factor}")
    use_vae_savings(bundle.vae, args.vae_slicing, args.vae_tiling)
    bundle.unet.register_to_config(sample_size=args.resolution // factor)  # what pictures are drawn at by default
    return bundle


def build_step(method: type[StableDiffusionTrainer], run: Run, bundle: Bundle) -> DiffusionStep:
    """The forward pass, with the memory settings of the flags."""
    model, args = run.model, run.args
    method.adapt(run, bundle)
    trained = method.trained_layers(run, bundle)
    if args.recompute:
        use_recompute(bundle, trains_text(trained))
    if args.enable_xformers_memory_efficient_attention:
        use_memory_efficient_attention(bundle)
    where = f"scheduler of {model.pretrained_model_name_or_path}"
    schedule = NoiseSchedule.from_config(bundle.scheduler_config, model.prediction_type, source=where)
    return DiffusionStep(
        bundle,
        Objective(schedule, snr_gamma=model.snr_gamma),
        trained,
        model.text_settings,
        learning=method.learning_layers(run, bundle),
        denoiser=method.denoiser(run, bundle),
        told=method.told,
    )


def loader_factory(
    method: type[StableDiffusionTrainer],
    run: Run,
    tokenizer: Any,
    sources: Sequence[Any],
    config: StreamConfig,
) -> Callable[[Optional[list]], StreamLoader]:
    """How the trainer gets its batches, from the start or from saved positions."""
    args = run.args

    def make(positions: Optional[list]) -> StreamLoader:
        return StreamLoader(
            config,
            tokenizer,
            batch_size=method.batch_size(run),
            world=World(args.dataset_rank, args.dataset_world_size),
            num_workers=args.dataloader_num_workers,
            seed=args.seed,
            batches_per_step=args.gradient_accumulation_steps,
            position=positions,
            sources=sources,
        )

    return make
