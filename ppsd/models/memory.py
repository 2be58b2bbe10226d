"""Settings that trade time for memory."""

from __future__ import annotations

import os

from ppsd.compat import require_recompute

import paddle

from ppsd.models.bundle import Bundle


def use_recompute(bundle: Bundle, train_text_encoder: bool) -> None:
    """Keep no activations of the UNet's blocks; compute them again in the backward pass."""
    require_recompute()
    bundle.unet.enable_gradient_checkpointing()
    if train_text_encoder:
        bundle.text_encoder.gradient_checkpointing_enable()


def use_memory_efficient_attention(bundle: Bundle) -> None:
    """Paddle's flash or cutlass attention; `FLAG_XFORMERS_ATTENTION_OP` picks one. Raises ValueError without a GPU."""
    if not paddle.is_compiled_with_cuda():
        raise ValueError(
            "--enable_xformers_memory_efficient_attention (FLAG_XFORMERS) needs paddlepaddle-gpu; "
            "this paddle is built for the CPU. Leave it off here"
        )
    name = os.getenv("FLAG_XFORMERS_ATTENTION_OP", "none").lower()
    attention_op = None if name == "none" else name
    for layer in (bundle.unet, bundle.vae):
        layer.enable_xformers_memory_efficient_attention(attention_op)
