"""Draw pictures as ControlNets or T2I-Adapters say where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn
from ppdiffusers import StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline, T2IAdapter

from ppsd.models.bundle import Bundle
from ppsd.models.conditions import control_of
from ppsd.sampling.pipeline import generate, pipeline_parts, size_of
from ppsd.sampling.text import TextSettings, use_text_settings


def build_control_pipeline(
    bundle: Bundle,
    controlnets: Sequence[nn.Layer],
    prediction_type: str,
    text: TextSettings = TextSettings(),  # noqa: B008  frozen
) -> Any:
    """The pipeline with several ControlNets, whose residuals are added, or with one T2I-Adapter."""
    parts = {**pipeline_parts(bundle, prediction_type), "safety_checker": None, "requires_safety_checker": False}
    adapters = [layer for layer in controlnets if isinstance(layer, T2IAdapter)]
    if not adapters:
        return use_text_settings(StableDiffusionControlNetPipeline(**parts, controlnet=list(controlnets)), text)
    if len(controlnets) > 1:
        raise ValueError("a T2I-Adapter draws alone, not beside others or ControlNets")
    return use_text_settings(StableDiffusionAdapterPipeline(**parts, adapter=adapters[0]), text)


def generate_controlled(
    pipe: Any,
    prompts: Sequence[str],
    conditions: Sequence[np.ndarray],
    scales: Optional[Sequence[float]] = None,
    *,
    height: Optional[int] = None,
    width: Optional[int] = None,
    **settings: Any,
) -> np.ndarray:
    """One picture a prompt, uint8 [N,H,W,3], from the noise that `generate` has; settings: of `generate`.

    conditions: for each ControlNet uint8 [N,H,W,3]; scales: how much each has to say, 1 unless given. Height and width
    are those of the conditions, or these; a condition of another size raises ValueError.
    """
    scales = [1.0] * len(conditions) if scales is None else [float(scale) for scale in scales]
    height, width = size_of(pipe, height or conditions[0].shape[1], width or conditions[0].shape[2])
    _check(pipe, conditions, scales, (len(prompts), height, width, 3))

    def told(start: int, stop: int) -> Mapping[str, Any]:
        pictures = [_control(condition[start:stop]) for condition in conditions]
        if isinstance(pipe, StableDiffusionAdapterPipeline):
            return {"image": pictures[0], "adapter_conditioning_scale": scales[0]}
        return {"image": pictures, "controlnet_conditioning_scale": scales}

    return generate(pipe, prompts, height=height, width=width, told=told, **settings)


def _check(pipe: Any, conditions: Sequence[np.ndarray], scales: Sequence[float], shape: tuple[int, ...]) -> None:
    nets = 1 if isinstance(pipe, StableDiffusionAdapterPipeline) else len(pipe.controlnet.nets)
    if not nets == len(conditions) == len(scales):
        raise ValueError(f"{nets} ControlNets, {len(conditions)} conditions and {len(scales)} scales: not as many")
    for number, found in enumerate(conditions, 1):
        if found.shape != shape:
            raise ValueError(f"condition {number} is {list(found.shape)}; pictures of {list(shape)} are to be drawn")


def _control(pictures: np.ndarray) -> paddle.Tensor:
    """uint8 [n,H,W,3] -> float32 [n,3,H,W] in 0..1."""
    return control_of(paddle.to_tensor(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))))
