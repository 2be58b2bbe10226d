"""Pixels to scaled latents."""

from __future__ import annotations

import paddle
from ppdiffusers import AutoencoderKL


@paddle.no_grad()
def encode(vae: AutoencoderKL, pixels: paddle.Tensor, noise: paddle.Tensor) -> paddle.Tensor:
    """A sample of the VAE's posterior, times its scaling factor.

    pixels uint8 [B,3,H,W]; noise float32 [B,4,h,w] -> float32 [B,4,h,w].
    """
    posterior = vae.encode(to_unit(pixels).astype(vae.dtype)).latent_dist
    sample = posterior.mean.astype("float32") + posterior.std.astype("float32") * noise
    return sample * vae.config.scaling_factor


def to_unit(pixels: paddle.Tensor) -> paddle.Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return pixels.astype("float32") / 127.5 - 1.0


@paddle.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: paddle.Tensor) -> paddle.Tensor:
    """Through the VAE and back, at the posterior's mean. uint8 [B,3,H,W] -> float32 [B,3,H,W] in 0..1."""
    mean = vae.encode(to_unit(pixels).astype(vae.dtype)).latent_dist.mean
    return (vae.decode(mean).sample.astype("float32") / 2 + 0.5).clip(0, 1)
