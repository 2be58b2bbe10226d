"""Everything random in a training step, drawn from each sample's own seed: independent of batch, rank and device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import paddle

# The second word of the Philox key. A stream's number is part of every trained run: never change one, add at the end.
_STREAMS = {"noise": 1, "timestep": 2, "offset": 3, "perturbation": 4, "vae": 5, "masked": 6}


@dataclass(frozen=True)
class Draws:
    """noise, vae_noise float32 [B,C,h,w]; timesteps int64 [B].

    `noise` has the noise offset in it and is what the objective's target is made of; `noise_for_input` (None without
    input perturbation) is what x_t is made of instead; `vae_noise` samples the VAE's posterior: mean + std * vae_noise;
    `masked_noise` (None unless asked for) does so for a second picture of each sample.
    """

    noise: paddle.Tensor
    timesteps: paddle.Tensor
    noise_for_input: Optional[paddle.Tensor]
    vae_noise: paddle.Tensor
    masked_noise: Optional[paddle.Tensor] = None


def draw(
    seeds: Any,
    latent_shape: Sequence[int],
    *,
    num_train_timesteps: int,
    noise_offset: float = 0.0,
    input_perturbation: float = 0.0,
    masked: bool = False,
) -> Draws:
    """Draws for seeds int64 [B] (array or tensor) and latents of `latent_shape` (C,h,w).

    noise_offset s: noise += s * n, one n ~ N(0,1) a sample and channel (crosslabs.org, diffusion with offset noise).
    input_perturbation g: noise_for_input = noise + g * N(0,1) (arXiv 2301.11706, algorithm 1).
    masked: a masked picture goes through the VAE, too.
    Seeds on a GPU are copied to the host, which waits for it: hand them over as they come from the loader.
    """
    shape = tuple(latent_shape)
    keys = np.asarray(seeds).astype(np.int64).view(np.uint64)
    noise = _normal(keys, "noise", shape)
    if noise_offset:
        noise += np.float32(noise_offset) * _normal(keys, "offset", (shape[0], 1, 1))
    noise_for_input = None
    if input_perturbation:
        noise_for_input = paddle.to_tensor(
            noise + np.float32(input_perturbation) * _normal(keys, "perturbation", shape)
        )
    timesteps = [_generator(key, "timestep").integers(num_train_timesteps) for key in keys]
    return Draws(
        noise=paddle.to_tensor(noise),
        timesteps=paddle.to_tensor(np.array(timesteps, dtype=np.int64)),
        noise_for_input=noise_for_input,
        vae_noise=paddle.to_tensor(_normal(keys, "vae", shape)),
        masked_noise=paddle.to_tensor(_normal(keys, "masked", shape)) if masked else None,
    )


def _generator(key: np.uint64, stream: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([key, _STREAMS[stream]], dtype=np.uint64)))


def _normal(keys: np.ndarray, stream: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [B,*shape]."""
    return np.stack([_generator(key, stream).standard_normal(shape, dtype=np.float32) for key in keys])
