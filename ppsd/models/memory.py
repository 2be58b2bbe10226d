"""Settings that trade time for memory."""

from __future__ import annotations

import os
from collections.abc import Container

from ppsd.compat import require_recompute

import paddle
from paddle import nn
from ppdiffusers import AutoencoderKL, T2IAdapter

from ppsd.models.bundle import Bundle


def use_recompute(bundle: Bundle, train_text_encoder: bool) -> None:
    """Keep no activations of the UNet's and ControlNet's blocks; compute them again in the backward pass."""
    require_recompute()
    bundle.unet.enable_gradient_checkpointing()
    if bundle.controlnet is not None and not isinstance(bundle.controlnet, T2IAdapter):  # which is small
        recompute_blocks(bundle.controlnet)
    if train_text_encoder:
        bundle.text_encoder.gradient_checkpointing_enable()


def recompute_blocks(controlnet: nn.Layer) -> None:
    """Of a ControlNet or ControlLora: all that can be computed again. ppdiffusers' own switch leaves out transformers
    and the middle block, which are most of what is kept."""
    controlnet.enable_gradient_checkpointing()
    for layer in getattr(controlnet, "controlnet", controlnet).sublayers():
        if hasattr(layer, "gradient_checkpointing"):
            layer.gradient_checkpointing = True


def use_memory_efficient_attention(bundle: Bundle) -> None:
    """Paddle's flash or cutlass attention; `FLAG_XFORMERS_ATTENTION_OP` picks one. Raises ValueError without a GPU."""
    if not paddle.is_compiled_with_cuda():
        raise ValueError(
            "--enable_xformers_memory_efficient_attention (FLAG_XFORMERS) needs paddlepaddle-gpu; "
            "this paddle is built for the CPU. Leave it off here"
        )
    name = os.getenv("FLAG_XFORMERS_ATTENTION_OP", "none").lower()
    attention_op = None if name == "none" else name
    for layer in (bundle.unet, bundle.vae, *([bundle.controlnet] if bundle.controlnet is not None else [])):
        layer.enable_xformers_memory_efficient_attention(attention_op)


def use_vae_savings(vae: AutoencoderKL, slicing: bool, tiling: bool) -> None:
    """slicing: one picture at a time, which changes nothing but time. tiling: pictures above the size that the VAE was
    made for go through it in overlapping tiles.

    Tiles have norms and attention of their own, so latents and pictures differ a bit: for the demo model's VAE, at
    twice its size, pictures by 1.3 % of the range on average, and by up to 43 % at an edge
    (tests/models/test_memory.py).
    """
    if slicing:
        vae.enable_slicing()
    if tiling:
        vae.enable_tiling()


def halve_frozen(bundle: Bundle, trained: Container[str], dtype: str) -> None:
    """Cast the VAE to `dtype`, and what else is not in `trained`: the UNet, and the text encoder unless new tokens'
    embeddings are.

    Only networks that are frozen as a whole: a UNet whose decoder is trained (--sd_locked False) stays as it is, as its
    checkpoints hold all of it. Its first weight says what a network casts its input to, so that a float32 ControlNet
    beside a halved UNet gets float32; under AMP its residuals are halved like the features to which they are added.
    """
    halved = [bundle.vae]
    if "unet" not in trained:
        halved.append(bundle.unet)
    if "text_encoder" not in trained and "embeddings" not in trained:
        halved.append(bundle.text_encoder)
    for layer in halved:
        layer.to(dtype=dtype)


def parameter_bytes(layer: nn.Layer) -> int:
    return sum(int(p.size) * p.element_size() for p in layer.parameters())
