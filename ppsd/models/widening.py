"""A UNet that is told more by further input channels, and begins as the one that it was made of."""

from __future__ import annotations

import paddle
from paddle import nn
from ppdiffusers import UNet2DConditionModel

INPAINTING, DEPTH = 5, 1
"""Channels beside the latents': the mask and the masked image's latents; the depth."""
INPUTS = {0: "a UNet of text alone", INPAINTING: "an inpainting UNet", DEPTH: "a depth UNet"}
"""By the channels beside the latents'."""


@paddle.no_grad()
def widen_conv_in(unet: UNet2DConditionModel, channels: int) -> None:
    """Give the UNet `channels` input channels, the new ones last and with weights 0, so that its predictions do not
    depend on them yet. Config and weights say so, too. Raises ValueError where it has as many or more."""
    old = unet.conv_in
    inputs = unet.config.in_channels
    if channels <= inputs:
        raise ValueError(f"the UNet has {inputs} input channels already; {channels} are none to be added")
    outputs, _, *kernel = old.weight.shape
    new = nn.Conv2D(channels, outputs, kernel, padding=old._padding, bias_attr=None, data_format=old._data_format)
    added = paddle.zeros([outputs, channels - inputs, *kernel], old.weight.dtype)
    new.to(dtype=old.weight.dtype)
    new.weight.set_value(paddle.concat([old.weight, added], axis=1))
    new.bias.set_value(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=channels)
