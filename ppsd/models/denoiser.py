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
