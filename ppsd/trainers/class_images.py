"""Drawing the class images of DreamBooth before training: which models, by which processes, in which precision."""

from __future__ import annotations

import gc
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Optional

from ppsd.compat import meet

import paddle

from ppsd.models.memory import use_memory_efficient_attention, use_vae_savings
from ppsd.sampling.class_images import draw_missing, image_files, missing_numbers
from ppsd.sampling.pipeline import build_pipeline
from ppsd.sampling.text import TextSettings
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments, prior_dtype
from ppsd.trainers.building import load_models
from ppsd.trainers.processes import from_first
from ppsd.trainers.run import Run
from ppsd.types import World

logger = logging.getLogger(__name__)


def complete(folder: Path, run: Run, own: DreamBoothArguments, concat_channels: int = 0) -> None:
    """Draw what `folder` lacks of `own.num_class_images`. All processes draw, and each goes on when all are done.

    concat_channels: of Method. An inpainting UNet draws in a mask of all of the picture.

    Raises ValueError where the images are not there then: the folder lists its images, or other machines do not see it.
    """
    prompt, count = str(own.class_prompt), own.num_class_images
    missing = from_first(lambda: missing_numbers(folder, prompt, count))
    if not missing:
        return
    args = run.args
    world = World(args.process_index, args.world_size)
    logger.info("class images: drawing %d of %r for %s", len(missing), prompt, folder)
    if str(run.model.unet_name_or_path).endswith(".json"):
        logger.warning("class images: the UNet of --unet_name_or_path is untrained, and they will show nothing")
    pipe = _open_pipeline(run, concat_channels)
    with _precision(prior_dtype(own.prior_generation_precision, str(args.device))):
        draw_missing(
            pipe,
            folder,
            prompt,
            missing,
            batch_size=own.sample_batch_size,
            seed=args.seed,
            guidance_scale=args.guidance_scale,
            num_inference_steps=run.model.num_inference_steps,
            world=world,
            progress=world.rank == 0 and not args.disable_tqdm,
        )
    del pipe  # training loads its own, and there may be no room for two
    gc.collect()
    if paddle.device.is_compiled_with_cuda():
        paddle.device.cuda.empty_cache()
    meet()
    found = len(image_files(folder))
    if found < count:
        raise ValueError(
            f"--class_data_dir: {folder} has {found} of {count} images after the others were drawn into it; all"
            " machines must see the same folder, and a metadata file in it would have to name them: leave that out"
        )


def _precision(dtype: Optional[str]) -> AbstractContextManager:
    return nullcontext() if dtype is None else paddle.amp.auto_cast(dtype=dtype, level="O1")


def _open_pipeline(run: Run, concat_channels: int) -> Any:
    """The models before training, drawing pictures of the size that they are of."""
    model, args, bundle = run.model, run.args, load_models(run, concat_channels)
    use_vae_savings(bundle.vae, args.vae_slicing, args.vae_tiling)
    if args.enable_xformers_memory_efficient_attention:
        use_memory_efficient_attention(bundle)
    prediction_type = model.prediction_type or bundle.scheduler_config.get("prediction_type", "epsilon")
    return build_pipeline(bundle, prediction_type, TextSettings(model.clip_skip, model.max_token_length))
