"""What a ControlNet run begins with: a new network, one from a folder, or adapters."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import paddle
from paddle import nn

from ppsd.adapters.control_lora import new_control_lora
from ppsd.models.bundle import Bundle
from ppsd.models.controlnet import (
    FLAG,
    embedding_channels,
    load_controlnet,
    load_t2i_adapter,
    mute_down_blocks,
    new_controlnet,
    new_t2i_adapter,
)
from ppsd.trainers.controlnet_folders import find_controlnet
from ppsd.trainers.run import Run

logger = logging.getLogger(__name__)

_NOT_FOR_CONTROL = (
    "network_train_text_encoder_only",
    "down_lr_weight",
    "mid_lr_weight",
    "up_lr_weight",
    "loraplus_lr_ratio",
    "network_weights",
)


def check_embedding(controlnet: nn.Layer, factor: int, flag: str) -> None:
    """Raise ValueError where what it makes of a picture is not of the latents' size."""
    own = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
    if own != factor:
        raise ValueError(f"{flag}: the ControlNet makes a picture {own} times smaller, the VAE {factor} times")


def check_control(run: Run) -> None:
    """Raise ValueError, naming the flag, for what other methods can train and this one cannot."""
    model, own = run.model, run.own
    for name, given in (
        ("train_text_encoder", model.train_text_encoder),
        ("placeholder_token", model.placeholder_token),
    ):
        if given:
            raise ValueError(
                f"--{name}: a ControlNet is trained beside a text encoder that stays as it is; leave it out"
            )
    if run.data.cache_latents and own.annotator is not None:
        raise ValueError("--annotator with --cache_latents: it acts on pixels; write a column with tools/annotate.py")
    if model.network_module is None:
        return
    if own.control_type != "controlnet" or not own.sd_locked:
        raise ValueError("--network_module: adapters are for --control_type controlnet with --sd_locked True")
    defaults: dict[str, Any] = {field.name: field.default for field in fields(model)}
    for name in _NOT_FOR_CONTROL:
        if getattr(model, name) != defaults[name]:
            raise ValueError(f"--{name} is not for adapters of a ControlNet; leave it out")


def make_control(run: Run, bundle: Bundle) -> nn.Layer:
    """As the flags say. Raises ValueError naming them."""
    own, path, factor = run.own, run.own.controlnet_model_name_or_path, bundle.vae_scale_factor
    paddle.seed(run.args.seed)
    path = find_controlnet(path, FLAG) if path else None
    if own.control_type == "t2i_adapter":
        return load_t2i_adapter(path, bundle) if path else new_t2i_adapter(bundle.unet, factor)
    if path:
        controlnet = load_controlnet(path, bundle.unet)
    else:
        channels = own.conditioning_embedding_out_channels or embedding_channels(factor)
        controlnet = new_controlnet(bundle.unet, embedding_channels=channels)
    check_embedding(controlnet, factor, FLAG if path else "--conditioning_embedding_out_channels")
    if own.only_mid_control:
        mute_down_blocks(controlnet)
    trained = controlnet
    if run.model.network_module:
        model = run.model
        options, dropout, seed = model.adapter_options, model.adapter_dropout, run.args.seed
        trained = new_control_lora(controlnet, model.adapter_targets, str(model.network_module), options, dropout, seed)
    count = sum(int(p.size) for p in trained.parameters())
    logger.info("%s: %d parameters", "adapters of a ControlNet" if run.model.network_module else "ControlNet", count)
    return trained
