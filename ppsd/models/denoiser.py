"""What predicts the noise: (x_t [B,4,h,w], timesteps [B], condition) -> [B,4,h,w]."""

from __future__ import annotations

import paddle
from paddle import nn

from ppsd.types import Condition


class PlainDenoiser:
    """The UNet alone."""

    def __init__(self, unet: nn.Layer) -> None:
        self.unet = unet

    def __call__(self, x_t: paddle.Tensor, timesteps: paddle.Tensor, condition: Condition) -> paddle.Tensor:
        return self.unet(x_t, timesteps, encoder_hidden_states=condition.hidden).sample


class ConcatDenoiser:
    """A UNet with further input channels: x_t and, after it, condition.concat.

    Of Stable Diffusion's own models: inpainting [B,5,h,w], the mask and then the masked image's latents; depth
    [B,1,h,w] in -1..1. See ppsd.models.conditions.
    """

    def __init__(self, unet: nn.Layer) -> None:
        self.unet = unet

    def __call__(self, x_t: paddle.Tensor, timesteps: paddle.Tensor, condition: Condition) -> paddle.Tensor:
        assert condition.concat is not None
        inputs = paddle.concat([x_t, condition.concat.astype(x_t.dtype)], axis=1)
        return self.unet(inputs, timesteps, encoder_hidden_states=condition.hidden).sample


class ControlDenoiser:
    """A ControlNet (arXiv 2302.05543) that sees condition.control, [B,3,H,W] in 0..1, and adds to the UNet's features.

    only_mid_control: to those of the middle block alone, not to what the down blocks hand to the up blocks (that
    option of the paper's repository, cldm/cldm.py).
    """

    def __init__(self, unet: nn.Layer, controlnet: nn.Layer, only_mid_control: bool = False) -> None:
        self.unet, self.controlnet, self.only_mid_control = unet, controlnet, only_mid_control

    def __call__(self, x_t: paddle.Tensor, timesteps: paddle.Tensor, condition: Condition) -> paddle.Tensor:
        assert condition.control is not None
        down, middle = self.controlnet(x_t, timesteps, condition.hidden, condition.control, return_dict=False)
        if self.only_mid_control:
            down = [0.0] * len(down)  # to the UNet fewer residuals mean fewer features
        return self.unet(
            x_t,
            timesteps,
            encoder_hidden_states=condition.hidden,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


class T2IAdapterDenoiser:
    """A T2I-Adapter (arXiv 2302.08453): features of condition.control, [B,3,H,W] in 0..1, within the UNet's encoder."""

    def __init__(self, unet: nn.Layer, adapter: nn.Layer) -> None:
        self.unet, self.adapter = unet, adapter

    def __call__(self, x_t: paddle.Tensor, timesteps: paddle.Tensor, condition: Condition) -> paddle.Tensor:
        assert condition.control is not None
        features = self.adapter(condition.control.astype(self.adapter.dtype))
        return self.unet(
            x_t,
            timesteps,
            encoder_hidden_states=condition.hidden,
            down_intrablock_additional_residuals=list(features),
        ).sample
