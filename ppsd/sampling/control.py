"""Draw pictures as ControlNets or T2I-Adapters say where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn
from PIL import Image
from ppdiffusers import MultiAdapter, StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline, T2IAdapter

from ppsd.models.bundle import Bundle
from ppsd.models.conditions import control_of
from ppsd.sampling.pipeline import build_pipeline, generate, size_of
from ppsd.sampling.text import TextSettings, text_settings, use_text_settings

_SHARED = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "feature_extractor")
"""With pipelines of prompts alone."""


def build_control_pipeline(
    bundle: Bundle,
    controlnets: Sequence[nn.Layer],
    prediction_type: str,
    text: TextSettings = TextSettings(),  # noqa: B008  frozen
) -> Any:
    """The pipeline with several ControlNets, whose residuals are added, or several T2I-Adapters, whose features are."""
    return with_controlnets(build_pipeline(bundle, prediction_type, text), controlnets)


def with_controlnets(pipe: Any, controlnets: Sequence[nn.Layer]) -> Any:
    """The same of what a pipeline of prompts alone is made of, and with its text settings."""
    parts = {name: getattr(pipe, name) for name in _SHARED}
    parts.update(safety_checker=None, requires_safety_checker=False)
    adapters = [layer for layer in controlnets if isinstance(layer, T2IAdapter)]
    if not adapters:
        drawn_with = StableDiffusionControlNetPipeline(**parts, controlnet=list(controlnets))
    elif len(adapters) < len(controlnets):
        raise ValueError("ControlNets and T2I-Adapters do not draw together: they act in different layers of the UNet")
    else:
        adapter = adapters[0] if len(adapters) == 1 else MultiAdapter(adapters)
        drawn_with = StableDiffusionAdapterPipeline(**parts, adapter=adapter)
    return use_text_settings(drawn_with, text_settings(pipe))


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
        pictures = [_control(condition[start:stop], _channels(net)) for condition, net in zip(conditions, _nets(pipe))]
        if isinstance(pipe, StableDiffusionAdapterPipeline):
            alone = not isinstance(pipe.adapter, MultiAdapter)
            return {
                "image": pictures[0] if alone else pictures,
                "adapter_conditioning_scale": scales[0] if alone else scales,
            }
        return {"image": pictures, "controlnet_conditioning_scale": scales}

    return generate(pipe, prompts, height=height, width=width, told=told, **settings)


def _check(pipe: Any, conditions: Sequence[np.ndarray], scales: Sequence[float], shape: tuple[int, ...]) -> None:
    nets = len(_nets(pipe))
    if not nets == len(conditions) == len(scales):
        raise ValueError(f"{nets} ControlNets, {len(conditions)} conditions and {len(scales)} scales: not as many")
    for number, found in enumerate(conditions, 1):
        if found.shape != shape:
            raise ValueError(f"condition {number} is {list(found.shape)}; pictures of {list(shape)} are to be drawn")


def _nets(pipe: Any) -> list[nn.Layer]:
    if not isinstance(pipe, StableDiffusionAdapterPipeline):
        return list(pipe.controlnet.nets)
    return list(pipe.adapter.adapters) if isinstance(pipe.adapter, MultiAdapter) else [pipe.adapter]


def _channels(net: nn.Layer) -> int:
    """Of the picture that it is shown: 3, or 1 for those that know grey alone (TencentARC's for sketches and edges)."""
    return int(net.config.in_channels if isinstance(net, T2IAdapter) else net.config.conditioning_channels)


def _control(pictures: np.ndarray, channels: int) -> paddle.Tensor:
    """uint8 [n,H,W,3] -> float32 [n,C,H,W] in 0..1."""
    if channels == 1:
        pictures = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures])[..., None]
    return control_of(paddle.to_tensor(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))))
