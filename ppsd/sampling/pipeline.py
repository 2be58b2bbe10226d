"""Draw pictures from prompts. Uses generators of its own and leaves every global one as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
import ppdiffusers
from paddle import nn
from ppdiffusers import (
    DDIMScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from tqdm import tqdm

from ppsd.models.bundle import Bundle, load_bundle
from ppsd.models.widening import DEPTH, INPAINTING, INPUTS
from ppsd.sampling.text import PromptEncoder, TextSettings, read_text_settings, use_text_settings

Told = Callable[[int, int], Mapping[str, Any]]
"""What a pipeline is told of the pictures `start` to `stop` beside their prompts."""


def build_pipeline(
    bundle: Bundle,
    prediction_type: str,
    text: TextSettings = TextSettings(),  # noqa: B008  frozen
) -> Any:
    """The pipeline around components in memory, with the scheduler class that the checkpoint names: for inpainting, for
    depth or for text alone, as the UNet's inputs say.

    text: how `generate` encodes its prompts.
    """
    parts = pipeline_parts(bundle, prediction_type)
    beside = beside_latents(bundle.unet, bundle.vae)
    if beside == DEPTH:
        return use_text_settings(StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None), text)
    cls = StableDiffusionInpaintPipeline if beside == INPAINTING else StableDiffusionPipeline
    return use_text_settings(cls(**parts, safety_checker=None, requires_safety_checker=False), text)


def pipeline_parts(bundle: Bundle, prediction_type: str) -> dict[str, Any]:
    """What all of the stack's pipelines are built of."""
    return {
        "vae": bundle.vae,
        "text_encoder": bundle.text_encoder,
        "tokenizer": bundle.tokenizer,
        "unet": bundle.unet,
        "scheduler": build_scheduler(bundle.scheduler_config, prediction_type),
        "feature_extractor": None,
    }


def beside_latents(unet: nn.Layer, vae: nn.Layer) -> int:
    """How many of the UNet's input channels are not the latents' (see ppsd.models.widening)."""
    return int(unet.config.in_channels - vae.config.latent_channels)


def build_scheduler(config: Mapping[str, Any], prediction_type: str) -> Any:
    """The scheduler that `_class_name` names (DDIM where it is a training schedule), set to `prediction_type`."""
    name = config.get("_class_name", "DDIMScheduler")
    cls = DDIMScheduler if name in ("DDPMScheduler", "DDIMScheduler") else getattr(ppdiffusers, name, None)
    if cls is None:
        raise ValueError(f"the scheduler config names {name}; ppdiffusers {ppdiffusers.__version__} has no such class")
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    settings.update(prediction_type=prediction_type, clip_sample=False, steps_offset=1)
    return cls.from_config(settings)


def load_pipeline(
    pipeline: str,
    unet: Optional[str] = None,
    variant: Optional[str] = None,
    text: TextSettings = TextSettings(),  # noqa: B008  frozen
    concat_channels: Optional[int] = 0,
) -> Any:
    """A pipeline folder (Paddle or torch layout) or hub name; `unet` (a checkpoint's `unet` folder) replaces its UNet,
    which must have `concat_channels` beside the latents' (None: those of any kind).

    `variant` "ema" takes the averaged weights of `unet`. text: what is None there is as the note beside the UNet says,
    else that in the pipeline's folder. Raises ValueError for what is missing; a folder without a UNet of its own (the
    shipped tiny pipeline) needs `unet`.
    """
    folder = Path(pipeline)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(f"--pipeline: {pipeline} is not a pipeline folder (it has no model_index.json)")
    if folder.is_dir() and unet is None and not (folder / "unet").is_dir():
        raise ValueError(f"--pipeline: {pipeline} has no UNet of its own; name one with --unet checkpoint-N/unet")
    flags = ("--pipeline", "--unet")
    bundle = load_bundle(pipeline, unet=unet, unet_variant=variant, flags=flags, concat_channels=concat_channels)
    note = (None if unet is None else read_text_settings(Path(unet).parent)) or read_text_settings(folder)
    text = text.or_else(note or TextSettings())
    return build_pipeline(bundle, bundle.scheduler_config.get("prediction_type", "epsilon"), text)


def generate(
    pipe: Any,
    prompts: Sequence[str],
    *,
    guidance_scale: float,
    num_inference_steps: int,
    seed: int,
    height: Optional[int] = None,
    width: Optional[int] = None,
    batch_size: int = 8,
    negative_prompt: str = "",
    progress: bool = False,
    first: int = 0,
    told: Optional[Told] = None,
) -> np.ndarray:
    """One picture a prompt: uint8 [N,H,W,3]. Picture i starts from noise that depends on (seed, first + i) alone.

    told: see ppsd.sampling.control, inpainting and depth.

    Prompts are encoded as the pipeline's text settings say (see ppsd.sampling.text).
    """
    height, width = size_of(pipe, height, width)
    beside = beside_latents(pipe.unet, pipe.vae)
    if beside and told is None:
        raise ValueError(f"{INPUTS.get(beside, 'the UNet')} draws nothing of prompts alone")
    shape = latent_shape(pipe, height, width)
    pipe.set_progress_bar_config(disable=True)
    encode, guided = PromptEncoder(pipe), guidance_scale > 1
    encode.warn_of_cuts([*prompts, *([negative_prompt] if guided else [])])
    pictures = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="drawing", disable=not progress):
        chunk = list(prompts[start : start + batch_size])
        noise = np.stack([starting_noise(seed, first + start + i, shape) for i in range(len(chunk))])
        with _modules_in_eval(pipe):
            images = pipe(
                prompt_embeds=encode(chunk),
                negative_prompt_embeds=encode([negative_prompt] * len(chunk)) if guided else None,
                height=height,
                width=width,
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                latents=paddle.to_tensor(noise).astype(pipe.unet.dtype),
                output_type="np",
                **(told(start, start + len(chunk)) if told else {}),
            ).images
        pictures.append((np.asarray(images, dtype="float32") * 255.0).round().clip(0, 255).astype("uint8"))
    return np.concatenate(pictures)


def size_of(pipe: Any, height: Optional[int] = None, width: Optional[int] = None) -> tuple[int, int]:
    """Those, or the UNet's own, in pixels. Raises ValueError where they are not of whole latents."""
    factor, size = pipe.vae_scale_factor, pipe.unet.config.sample_size
    height, width = height or size * factor, width or size * factor
    if height % factor or width % factor:
        raise ValueError(f"height and width must be multiples of {factor}, not {height} and {width}")
    return height, width


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, int, int]:
    """[4,h,w] of pictures of this size."""
    factor = pipe.vae_scale_factor
    return pipe.vae.config.latent_channels, height // factor, width // factor


def starting_noise(seed: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """float32 standard normal [*shape]; a pure function of its arguments."""
    return np.random.default_rng([seed, index]).standard_normal(shape, dtype=np.float32)


class _modules_in_eval:
    """Within, the pipeline's layers are in eval mode; after, each is in the mode it was in."""

    def __init__(self, pipe: Any) -> None:
        self.parts = [part for part in pipe.components.values() if isinstance(part, nn.Layer)]
        self.layers = [layer for part in self.parts for layer in part.sublayers(include_self=True)]

    def __enter__(self) -> None:
        self.modes = [layer.training for layer in self.layers]
        for part in self.parts:
            part.eval()

    def __exit__(self, *error: object) -> None:
        for layer, training in zip(self.layers, self.modes):
            layer.training = training
