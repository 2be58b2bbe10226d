"""A ControlNet or a T2I-Adapter, whichever a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from paddle import nn
from ppdiffusers import ControlNetModel

from ppsd.models.controlnet import FLAG, load_controlnet, load_t2i_adapter
from ppsd.models.saving import read_config

KINDS = ("ControlNetModel", "T2IAdapter")
CONFIG = "config.json"


def load_control(path: str, models: Any, flag: str = FLAG, variant: Optional[str] = None) -> nn.Layer:
    """Of a folder (Paddle or torch layout) or hub name, as its config.json says. models: the bundle or pipeline whose
    UNet it is for; variant: "ema", the averaged weights.

    Raises ValueError naming the flag where it cannot be loaded whole, is neither, or was made for another UNet.
    """
    if kind_of(path, flag) == "T2IAdapter":
        return load_t2i_adapter(path, models, flag, variant)
    return load_controlnet(path, models.unet, flag, variant)


def kind_of(path: str, flag: str = FLAG) -> str:
    """Of KINDS. Raises ValueError naming the flag where it is neither, or cannot be known."""
    config = _config_of(path, flag)
    kind = str(config.get("_class_name", "a model of unknown kind"))
    if kind not in KINDS:
        raise ValueError(f"{flag}: {path} holds {kind}; a ControlNet's or a T2I-Adapter's folder is needed")
    return kind


def _config_of(path: str, flag: str) -> dict[str, Any]:
    if Path(path).exists():
        return read_config(Path(path) / CONFIG)
    try:
        return dict(ControlNetModel.load_config(path))
    except Exception as error:  # whatever the hub's client raises
        reason = str(error).strip().split("\n")[0].split(". ")[0][:200] or type(error).__name__
        raise ValueError(f"{flag}: {path} is no folder, and not to be had as a hub name: {reason}") from error
