"""The same prompts from the same noise by several checkpoints, one model in memory at a time."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle

from ppsd.models.bundle import Bundle, load_bundle
from ppsd.sampling.condition_flags import ConditionFlags
from ppsd.sampling.conditioned import Told, generate_told, shown
from ppsd.sampling.control import build_control_pipeline
from ppsd.sampling.pipeline import build_pipeline, size_of
from ppsd.sampling.prompts import Prompt, draw_prompts
from ppsd.sampling.scenes import Scene
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
CONTROLNET = "controlnet"
"""Of these parts, the one that draws after a picture: a ControlNet or a T2I-Adapter."""


def load_candidate(candidate: Candidate) -> Any:
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
        concat_channels=None,
    )
    for name in candidate.parts:
        if name in OTHER_PARTS:
            OTHER_PARTS[name](bundle, candidate)
    noted = None if folder is None else read_text_settings(folder)
    text = noted or read_text_settings(Path(candidate.pipeline)) or TextSettings()
    kind = candidate.prediction_type or bundle.scheduler_config.get("prediction_type", "epsilon")
    if bundle.controlnet is not None:
        return build_control_pipeline(bundle, [bundle.controlnet], kind, text)
    return build_pipeline(bundle, kind, text)


def draw_rows(
    candidates: Sequence[Candidate],
    prompts: Sequence[Prompt],
    count: int,
    *,
    flags: ConditionFlags = ConditionFlags(),  # noqa: B008  frozen
    scenes: Sequence[Scene] = (),
    **settings: Any,
) -> Iterator[list[list[np.ndarray]]]:
    """Of each candidate, `count` pictures uint8 [H,W,3] of each prompt.

    settings: of `generate`. Where they do not say the height and the width, all rows have those of the first one's.
    scenes: one for each prompt, if there are any, read as `flags` say; a row before the others shows them. Candidates
    without a ControlNet draw without one. Raises ValueError naming the flag that does not go with a candidate.
    """
    flags = replace(flags, controlnets=int(any(CONTROLNET in candidate.parts for candidate in candidates)))
    told: Told = {}
    for candidate in candidates:
        logger.info("drawing %d pictures with %s", len(prompts) * count, candidate.label)
        pipe = load_candidate(candidate)
        flags.check(pipe)
        height, width = size_of(pipe, settings.get("height"), settings.get("width"))
        settings.update(height=height, width=width)
        if scenes and not told:
            told = flags.read(scenes, (width, height), settings["seed"])
            yield [shown(told, i) for i in range(len(prompts))]
        draw = partial(generate_told, pipe, scales=[1.0] * (CONTROLNET in candidate.parts), **flags.settings)
        yield draw_prompts(draw, prompts, count, told=told, **settings)
        del pipe, draw
        gc.collect()
        if paddle.is_compiled_with_cuda():
            paddle.device.cuda.empty_cache()
