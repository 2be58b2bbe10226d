"""What a ControlNet run begins with: a new network, one from a folder, or adapters."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import paddle
from paddle import nn
from ppdiffusers import T2IAdapter

from ppsd.adapters.control_lora import new_control_lora
from ppsd.models.bundle import Bundle
from ppsd.models.control_models import kind_of
from ppsd.models.controlnet import (
    FLAG,
    embedding_channels,
    load_controlnet,
    load_t2i_adapter,
    mute_down_blocks,
    new_controlnet,
    new_t2i_adapter,
)
from ppsd.trainers.adapter import warn_of_low_rate
from ppsd.trainers.controlnet_folders import find_controlnet
from ppsd.trainers.run import Run

logger = logging.getLogger(__name__)

_CLASSES = {"controlnet": "ControlNetModel", "t2i_adapter": "T2IAdapter"}
_COLOURS = 3
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


def check_given(path: str, control_type: str) -> None:
    """Raise ValueError, naming the flag, where what is to be begun with is of another --control_type."""
    kind, wanted = kind_of(path, FLAG), _CLASSES[control_type]
    if kind != wanted:
        raise ValueError(f"{FLAG}: {path} holds {kind}; --control_type {control_type} needs {wanted}")


def check_colours(net: nn.Layer) -> None:
    """Raise ValueError where it is not shown three channels, as training has them."""
    name = "in_channels" if isinstance(net, T2IAdapter) else "conditioning_channels"
    if net.config[name] != _COLOURS:
        raise ValueError(f"{FLAG}: it is shown pictures of {net.config[name]} channels; training has {_COLOURS}")


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
    rate = run.args.unet_learning_rate
    if own.sd_locked and rate not in (0, run.args.asked_learning_rate):
        raise ValueError("--unet_learning_rate: the UNet stays as it is; give --learning_rate, or --sd_locked False")
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
    if path:
        path = find_controlnet(path, FLAG)
        check_given(path, own.control_type)
    if own.control_type == "t2i_adapter":
        adapter = load_t2i_adapter(path, bundle) if path else new_t2i_adapter(bundle.unet, factor)
        check_colours(adapter)
        return adapter
    if path:
        controlnet = load_controlnet(path, bundle.unet)
    else:
        channels = own.conditioning_embedding_out_channels or embedding_channels(factor)
        controlnet = new_controlnet(bundle.unet, embedding_channels=channels)
    check_colours(controlnet)
    check_embedding(controlnet, factor, FLAG if path else "--conditioning_embedding_out_channels")
    if own.only_mid_control:
        mute_down_blocks(controlnet)
    trained = controlnet
    if run.model.network_module:
        model = run.model
        options, dropout, seed = model.adapter_options, model.adapter_dropout, run.args.seed
        warn_of_low_rate(run.args.learning_rate)
        trained = new_control_lora(controlnet, model.adapter_targets, str(model.network_module), options, dropout, seed)
    count = sum(int(p.size) for p in trained.parameters())
    logger.info("%s: %d parameters", "adapters of a ControlNet" if run.model.network_module else "ControlNet", count)
    return trained
