"""Draw the masked regions of pictures anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ppsd.data.condition_pictures import MASKED
from ppsd.models.conditions import inpaint_concat
from ppsd.models.widening import INPAINTING
from ppsd.sampling.pipeline import beside_latents, generate, latent_shape, size_of

_POSTERIOR = 1  # the second noise of a picture


def generate_inpainted(
    pipe: Any,
    prompts: Sequence[str],
    pictures: np.ndarray,
    masks: np.ndarray,
    *,
    seed: int,
    first: int = 0,
    keep_unmasked: bool = False,
    **settings: Any,
) -> np.ndarray:
    """One picture a prompt: pictures uint8 [N,H,W,3]; masks uint8 [N,H,W], from 128 on painted anew -> as pictures.

    pipe: of `build_pipeline` around an inpainting UNet. Noise and settings are those of `generate`. What is not masked
    has gone through the VAE, too, unless keep_unmasked puts it back as it was. Raises ValueError for sizes that do not
    go together.
    """
    if beside_latents(pipe.unet, pipe.vae) != INPAINTING:
        raise ValueError(f"the UNet has {pipe.unet.config.in_channels} input channels; inpainting needs one with 9")
    if len(pictures) != len(prompts) or pictures.shape[:3] != masks.shape:
        raise ValueError(
            f"{len(prompts)} prompts, pictures {list(pictures.shape)} and masks {list(masks.shape)} do not go together"
        )
    height, width = size_of(pipe, *pictures.shape[1:3])
    shape = latent_shape(pipe, height, width)

    def told(start: int, stop: int) -> Mapping[str, Any]:
        pixels = paddle.to_tensor(np.ascontiguousarray(pictures[start:stop].transpose(0, 3, 1, 2)))
        mask = paddle.to_tensor(masks[start:stop, None])
        noise = np.stack([posterior_noise(seed, first + i, shape) for i in range(start, stop)])
        latents = inpaint_concat(pipe.vae, pixels, mask, paddle.to_tensor(noise))[:, 1:]
        unused = paddle.zeros([stop - start, 3, height, width])  # the pipeline asks for it, and draws from the latents
        return {
            "image": unused,
            "mask_image": (mask >= MASKED).astype("float32"),
            "masked_image_latents": latents.astype(pipe.unet.dtype),
            "strength": 1.0,
        }

    drawn = generate(pipe, prompts, seed=seed, first=first, height=height, width=width, told=told, **settings)
    return np.where(masks[..., None] >= MASKED, drawn, pictures) if keep_unmasked else drawn


def generate_in_full_masks(pipe: Any, prompts: Sequence[str], *, seed: int, **settings: Any) -> np.ndarray:
    """As `generate`, by an inpainting UNet: of a picture nothing is left."""
    height, width = size_of(pipe)
    shape = (len(prompts), height, width)
    grey, masks = np.full((*shape, 3), 127, np.uint8), np.full(shape, 255, np.uint8)
    return generate_inpainted(pipe, prompts, grey, masks, seed=seed, **settings)


def posterior_noise(seed: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """float32 standard normal [*shape] of the VAE's posterior of picture `index`; another than its starting noise."""
    return np.random.default_rng([seed, index, _POSTERIOR]).standard_normal(shape, dtype=np.float32)
