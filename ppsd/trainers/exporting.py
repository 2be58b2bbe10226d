"""The export: a pipeline folder to use. It takes the place of an earlier one when all of it is written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Optional

import paddle
from ppdiffusers import StableDiffusionControlNetPipeline, T2IAdapter

from ppsd.adapters.control_lora import OWN, ControlLora, whole_controlnet
from ppsd.formats.safetensors_file import Digest
from ppsd.models.bundle import Bundle
from ppsd.models.control_models import CONFIG
from ppsd.models.ema import EMA
from ppsd.models.saving import component_bytes, save_component
from ppsd.sampling.pipeline import build_pipeline, pipeline_parts
from ppsd.sampling.text import TextSettings, write_text_settings
from ppsd.trainers.checkpoint import staged, take_place
from ppsd.trainers.embeddings import learned_bytes, learned_rows, save_text_encoder, write_learned
from ppsd.trainers.manifest import flush

logger = logging.getLogger(__name__)

INDEX = "model_index.json"


def write_pipeline(
    folder: Path,
    bundle: Bundle,
    prediction_type: str,
    *,
    averaged: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
    text: TextSettings = TextSettings(),  # noqa: B008  frozen
) -> dict[Path, Digest]:
    """A whole ppdiffusers pipeline in float32, with the averaged UNet if that is what `averaged` is of.

    New tokens are in its tokenizer and text encoder, and in files of their own beside it, too.
    """
    written = save_component(bundle.vae, folder / "vae", masters=masters)
    written |= save_text_encoder(bundle, folder / "text_encoder", averaged, masters)
    written |= write_learned(folder, learned_rows(bundle, averaged, masters))
    weights = averaged.state_dict() if averaged and averaged.layer is bundle.unet else None
    written |= save_component(bundle.unet, folder / "unet", masters=masters, weights=weights)
    if bundle.controlnet is not None:
        written |= write_control(folder / "controlnet", bundle, averaged, masters)
    pipe = _described(bundle, prediction_type)
    bundle.tokenizer.save_pretrained(str(folder / "tokenizer"))
    pipe.scheduler.save_pretrained(str(folder / "scheduler"))
    pipe.save_config(str(folder))
    write_text_settings(folder, text)
    return written


def _described(bundle: Bundle, prediction_type: str) -> Any:
    """The pipeline that the index names: without a T2I-Adapter, whose pipeline has another folder for it."""
    if bundle.controlnet is None or isinstance(bundle.controlnet, T2IAdapter):
        return build_pipeline(bundle, prediction_type)
    parts = {**pipeline_parts(bundle, prediction_type), "safety_checker": None, "requires_safety_checker": False}
    return StableDiffusionControlNetPipeline(**parts, controlnet=whole_controlnet(bundle))


def write_control(
    folder: Path,
    bundle: Bundle,
    averaged: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
) -> dict[Path, Digest]:
    """The ControlNet (adapters within it) or T2I-Adapter in float32, averaged if that is what `averaged` is of."""
    controlnet, whole = bundle.controlnet, whole_controlnet(bundle)
    average = averaged if averaged is not None and averaged.layer is controlnet else None
    weights = average.state_dict() if average else {}
    if isinstance(controlnet, ControlLora):
        own = {name: value for name, value in weights.items() if name.startswith(OWN)}  # the others are fused
        with average.applied() if average else nullcontext(), controlnet.fused():
            return save_component(whole, folder, masters=masters, weights=own)
    return save_component(whole, folder, masters=masters, weights=weights)


def control_bytes(bundle: Bundle) -> int:
    """What `write_control` writes of weights."""
    return component_bytes(whole_controlnet(bundle))


def pipeline_bytes(bundle: Bundle) -> int:
    """What `write_pipeline` writes of weights."""
    layers = [bundle.vae, bundle.text_encoder, bundle.unet]
    control = 0 if bundle.controlnet is None else control_bytes(bundle)
    return sum(map(component_bytes, layers)) + control + 2 * learned_bytes(bundle)


def replace_export(staging: Path, folder: Path) -> None:
    """Move what was written into `folder`, in place of an earlier export.

    model_index.json, which makes it a pipeline, goes first and comes last, where there is a new one. A folder is either
    a pipeline or a ControlNet with a config.json: what makes it the other one goes, too.
    """
    for path in sorted(staging.rglob("*")):
        flush(path)
    if (staging / INDEX).exists() or (staging / CONFIG).exists():
        for name in (INDEX, CONFIG):
            (folder / name).unlink(missing_ok=True)
    for part in sorted(staging.iterdir(), key=lambda path: (path.name == INDEX, path.name)):
        take_place(part, folder / part.name)
    flush(folder)


@contextmanager
def exporting(folder: Path) -> Iterator[Path]:
    """Where to `write_pipeline`, aside; then `replace_export`. An earlier export stays where the block raises."""
    with staged(folder, "export") as staging:
        yield staging
        replace_export(staging, folder)
