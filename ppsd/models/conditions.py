"""What denoisers are told beside the text, made of a batch's extras: pictures, masks and depths."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle.nn import functional
from ppdiffusers import AutoencoderKL

from ppsd.models.latents import posterior_of_images, sample, to_unit

_FLAT = 1e-6  # of depths in 0..1: what float32's rounding alone can give


def control_of(conditioning: paddle.Tensor) -> paddle.Tensor:
    """uint8 0..255 -> float32 0..1, of any shape."""
    return conditioning.astype("float32") / 255.0


def inpaint_concat(
    vae: AutoencoderKL, pixels: paddle.Tensor, mask: paddle.Tensor, noise: paddle.Tensor
) -> paddle.Tensor:
    """The mask and the latents of what it leaves: pixels uint8 [B,3,H,W]; mask uint8 [B,1,H,W], from 128 on painted
    anew; noise float32 [B,4,h,w] of the VAE's posterior -> float32 [B,5,h,w].

    As StableDiffusionInpaintPipeline has it: what is masked is grey (0 in -1..1) to the VAE, and of the mask each
    latent has the value of its first pixel.
    """
    painted = (mask >= 128).astype("float32")
    latents = sample(vae, posterior_of_images(vae, to_unit(pixels) * (1.0 - painted)), noise)
    return paddle.concat([functional.interpolate(painted, size=noise.shape[2:], mode="nearest"), latents], axis=1)


@paddle.no_grad()
def depth_concat(depth: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """float [B,1,H,W], larger is nearer -> float32 [B,1,h,w] for size (h, w), each picture's from -1 to 1.

    As StableDiffusionDepth2ImgPipeline has it; but a picture all of whose depths are the same is 0, not 0 / 0.
    """
    small = functional.interpolate(depth.astype("float32"), size=list(size), mode="bicubic", align_corners=False)
    low = small.amin(axis=[1, 2, 3], keepdim=True)
    span = small.amax(axis=[1, 2, 3], keepdim=True) - low
    varied = (span > _FLAT).astype("float32")
    return varied * (2.0 * (small - low) / (span + (1.0 - varied)) - 1.0)
