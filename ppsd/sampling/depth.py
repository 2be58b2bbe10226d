"""Draw pictures of given depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import paddle
from ppdiffusers import StableDiffusionDepth2ImgPipeline

from ppsd.models.conditions import depth_concat
from ppsd.models.latents import encode
from ppsd.models.widening import DEPTH
from ppsd.sampling.inpainting import posterior_noise
from ppsd.sampling.pipeline import beside_latents, generate, latent_shape, size_of
from ppsd.sampling.text import text_settings, use_text_settings

STRENGTH = 0.8
"""As StableDiffusionDepth2ImgPipeline has it."""


def generate_from_depth(
    pipe: Any,
    prompts: Sequence[str],
    depths: np.ndarray,
    pictures: Optional[np.ndarray] = None,
    *,
    strength: float = STRENGTH,
    seed: int,
    first: int = 0,
    **settings: Any,
) -> np.ndarray:
    """One picture a prompt: depths float [N,H,W], larger is nearer -> uint8 [N,H,W,3].

    pipe: of `build_pipeline` around a depth UNet. Without pictures (uint8 [N,H,W,3]) from noise alone, as `generate`;
    with them from those, noised as much as `strength` says, from 0 to 1. Raises ValueError for sizes that do not go
    together, and for a strength that leaves no step to take.
    """
    if beside_latents(pipe.unet, pipe.vae) != DEPTH:
        raise ValueError(f"the UNet has {pipe.unet.config.in_channels} input channels; depth needs one with 5")
    if len(depths) != len(prompts) or (pictures is not None and pictures.shape != (*depths.shape, 3)):
        shown = "" if pictures is None else f", pictures {list(pictures.shape)}"
        raise ValueError(f"{len(prompts)} prompts, depths {list(depths.shape)}{shown} do not go together")
    steps = settings["num_inference_steps"]
    if pictures is not None and int(steps * strength) < 1:
        raise ValueError(f"--strength {strength:g} is less than one of {steps} steps (--num_inference_steps)")
    height, width = size_of(pipe, *depths.shape[1:])
    shape = latent_shape(pipe, height, width)

    def told(start: int, stop: int) -> Mapping[str, Any]:
        depth = depth_concat(paddle.to_tensor(depths[start:stop, None].astype(np.float32)), shape[1:])
        if pictures is None:
            return {"depth": depth, "strength": 1.0}
        pixels = paddle.to_tensor(np.ascontiguousarray(pictures[start:stop].transpose(0, 3, 1, 2)))
        noise = np.stack([posterior_noise(seed, first + i, shape) for i in range(start, stop)])
        return {"depth": depth, "strength": strength, "begin": encode(pipe.vae, pixels, paddle.to_tensor(noise))}

    drawn = use_text_settings(WithOwnNoise(**pipe.components), text_settings(pipe))
    return generate(drawn, prompts, seed=seed, first=first, height=height, width=width, told=told, **settings)


class WithOwnNoise(StableDiffusionDepth2ImgPipeline):
    """Its loop, told where to begin and with the depth that training has; its own draws from the global generator."""

    def __call__(
        self,
        *,
        latents: paddle.Tensor,
        depth: paddle.Tensor,
        height: int,
        width: int,
        begin: Optional[paddle.Tensor] = None,
        **kwargs: Any,
    ) -> Any:
        """latents: standard normal [B,4,h,w]; depth [B,1,h,w] in -1..1; begin [B,4,h,w]: of pictures, else noise."""
        self._noise, self._depth, self._begin = latents, depth, begin
        return super().__call__(image=paddle.zeros([latents.shape[0], 3, height, width]), **kwargs)

    def prepare_depth_map(
        self, image: Any, depth_map: Any, batch_size: int, do_classifier_free_guidance: bool, dtype: Any
    ) -> paddle.Tensor:
        return paddle.concat([self._depth] * (1 + do_classifier_free_guidance)).astype(dtype)

    def prepare_latents(self, image: Any, timestep: paddle.Tensor, *args: Any, **kwargs: Any) -> paddle.Tensor:
        if self._begin is None:
            return self._noise * self.scheduler.init_noise_sigma
        return self.scheduler.add_noise(self._begin.astype(self._noise.dtype), self._noise, timestep)
