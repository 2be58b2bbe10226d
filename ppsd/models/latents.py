"""Pixels to scaled latents."""

from __future__ import annotations

import paddle
from ppdiffusers import AutoencoderKL


def encode(vae: AutoencoderKL, pixels: paddle.Tensor, noise: paddle.Tensor) -> paddle.Tensor:
    """A sample of the VAE's posterior, times its scaling factor.

    pixels uint8 [B,3,H,W]; noise float32 [B,4,h,w] -> float32 [B,4,h,w].
    """
    return sample(vae, posterior(vae, pixels), noise)


@paddle.no_grad()
def posterior(vae: AutoencoderKL, pixels: paddle.Tensor) -> paddle.Tensor:
    """Mean and log variance of the latents' distribution, one after the other, unscaled.

    pixels uint8 [B,3,H,W] -> float32 [B,8,h,w].
    """
    return posterior_of_images(vae, to_unit(pixels))


@paddle.no_grad()
def posterior_of_images(vae: AutoencoderKL, images: paddle.Tensor) -> paddle.Tensor:
    """The same of images in -1..1: float [B,3,H,W] -> float32 [B,8,h,w]."""
    return vae.encode(images.astype(vae.dtype)).latent_dist.parameters.astype("float32")


@paddle.no_grad()
def sample(vae: AutoencoderKL, moments: paddle.Tensor, noise: paddle.Tensor) -> paddle.Tensor:
    """A draw from the distribution, times the scaling factor: moments [B,8,h,w]; noise [B,4,h,w] -> float32 [B,4,h,w].

    As latent-diffusion and diffusers have it, log variances are cut to -30 .. 20.
    """
    mean, log_variance = moments.astype("float32").chunk(2, axis=1)
    with paddle.amp.auto_cast(enable=False):
        std = paddle.exp(0.5 * log_variance.clip(-30.0, 20.0))
        return (mean + std * noise) * vae.config.scaling_factor


def to_unit(pixels: paddle.Tensor) -> paddle.Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return pixels.astype("float32") / 127.5 - 1.0


def reconstruct(vae: AutoencoderKL, pixels: paddle.Tensor) -> paddle.Tensor:
    """Through the VAE and back, at the posterior's mean. uint8 [B,3,H,W] -> float32 [B,3,H,W] in 0..1."""
    return decode_mean(vae, posterior(vae, pixels))


@paddle.no_grad()
def decode_mean(vae: AutoencoderKL, moments: paddle.Tensor) -> paddle.Tensor:
    """The picture at the posterior's mean. moments [B,8,h,w] -> float32 [B,3,H,W] in 0..1."""
    mean = moments.astype(vae.dtype).chunk(2, axis=1)[0]
    return (vae.decode(mean).sample.astype("float32") / 2 + 0.5).clip(0, 1)
