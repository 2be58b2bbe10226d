"""The same prompts from the same noise by several checkpoints, one model in memory at a time."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
from ppdiffusers import StableDiffusionPipeline

from ppsd.models.bundle import Bundle, load_bundle
from ppsd.sampling.pipeline import build_pipeline, generate
from ppsd.sampling.prompts import Prompt, draw_prompts
from ppsd.sampling.text import TextSettings, read_text_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A row: a pipeline, and perhaps a checkpoint whose trained parts take the place of its own.

    label: what the row is called. instead: other folders than the pipeline's, by component (vae, text_encoder,
    tokenizer, unet). parts: names of the checkpoint's subfolders; averaged: of which of them the EMA is taken.
    prediction_type: None, what the pipeline's scheduler says.
    """

    label: str
    pipeline: str
    instead: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Optional[Path] = None
    parts: tuple[str, ...] = ()
    averaged: Optional[str] = None
    prediction_type: Optional[str] = None


AddPart = Callable[[Bundle, Candidate], None]

# Parts of a checkpoint that are not whole models of the pipeline: what puts them into its models, by name.
OTHER_PARTS: dict[str, AddPart] = {}
MODELS = ("unet", "text_encoder")


def load_candidate(candidate: Candidate) -> StableDiffusionPipeline:
    """Raises ValueError for what cannot be loaded, and for parts that nobody knows how to add."""
    folder = candidate.checkpoint
    unknown = [name for name in candidate.parts if name not in (*MODELS, *OTHER_PARTS)]
    if unknown:
        raise ValueError(f"{folder}: {', '.join(unknown)} cannot be drawn with; export it to a pipeline first")
    models: dict[str, Any] = {
        name: str(folder / name) for name in MODELS if folder is not None and name in candidate.parts
    }
    bundle = load_bundle(
        candidate.pipeline,
        **{**candidate.instead, **models},
        unet_variant="ema" if candidate.averaged == "unet" else None,
        flags=("--pipeline", candidate.label),
    )
    for name in candidate.parts:
        if name in OTHER_PARTS:
            OTHER_PARTS[name](bundle, candidate)
    noted = None if folder is None else read_text_settings(folder)
    text = noted or read_text_settings(Path(candidate.pipeline)) or TextSettings()
    kind = candidate.prediction_type or bundle.scheduler_config.get("prediction_type", "epsilon")
    return build_pipeline(bundle, kind, text)


def draw_rows(
    candidates: Sequence[Candidate], prompts: Sequence[Prompt], count: int, **settings: Any
) -> Iterator[list[list[np.ndarray]]]:
    """Of each candidate, `count` pictures uint8 [H,W,3] of each prompt.

    settings: of `generate`. Where they do not say the height and the width, all rows have those of the first one's.
    """
    for candidate in candidates:
        logger.info("drawing %d pictures with %s", len(prompts) * count, candidate.label)
        pipe = load_candidate(candidate)
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        for name in ("height", "width"):
            settings[name] = settings.get(name) or side
        yield draw_prompts(partial(generate, pipe), prompts, count, **settings)
        del pipe
        gc.collect()
        if paddle.is_compiled_with_cuda():
            paddle.device.cuda.empty_cache()
