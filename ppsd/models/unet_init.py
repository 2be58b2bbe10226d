"""A UNet with random weights, as the public pretraining recipe initialises it."""

from __future__ import annotations

import json
from pathlib import Path

from paddle import nn
from ppdiffusers import UNet2DConditionModel
from ppdiffusers.models.resnet import ResnetBlock2D
from ppdiffusers.models.transformer_2d import Transformer2DModel
from ppdiffusers.utils.initializer_utils import reset_initialized_parameter, zeros_


def random_unet(config_file: str) -> UNet2DConditionModel:
    """The UNet that a `.json` config describes. Draws from paddle's global generator: seed it first."""
    try:
        config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"--unet_name_or_path: there is no file {config_file}") from error
    except ValueError as error:
        raise ValueError(f"--unet_name_or_path: {config_file} is not JSON: {error}") from error
    if not isinstance(config, dict) or "block_out_channels" not in config:
        raise ValueError(f"--unet_name_or_path: {config_file} is not a UNet config: no block_out_channels")
    unet = UNet2DConditionModel.from_config(config)
    reset_initialized_parameter(unet)
    zero_output_projections(unet)
    return unet


def zero_output_projections(unet: nn.Layer) -> None:
    """Zero every residual branch's last layer and the output convolution, so that training starts from identity."""
    outputs = [unet.conv_out]
    for layer in unet.sublayers():
        if isinstance(layer, ResnetBlock2D):
            outputs.append(layer.conv2)
        if isinstance(layer, Transformer2DModel):
            outputs.append(layer.proj_out)
    for layer in outputs:
        zeros_(layer.weight)
        if layer.bias is not None:
            zeros_(layer.bias)
