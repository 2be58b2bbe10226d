"""What kohya's tools want to know of a LoRA that no trainer wrote: its ranks, and what it is for."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ppsd.adapters.base import ALPHA
from ppsd.adapters.lora import DOWN
from ppsd.interop.lora.lora_file import Layers
from ppsd.models.saving import read_config


def said_of_ranks(layers: Layers) -> dict[str, str]:
    """kohya's entries about ranks and alphas, for layers of LoRA: "Dynamic" where they differ."""
    found: dict[bool, set[tuple[int, float]]] = {False: set(), True: set()}
    for factors in layers.values():
        down = factors[DOWN]
        rank = len(down)
        found[math.prod(down.shape[2:]) > 1].add((rank, float(factors.get(ALPHA, 0.0)) or float(rank)))
    plain, conv = found[False] or found[True], found[True]
    args = {"conv_dim": _one({rank for rank, _ in conv}), "conv_alpha": _one({alpha for _, alpha in conv})}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": _one({rank for rank, _ in plain}),
        "ss_network_alpha": _one({alpha for _, alpha in plain}),
        "ss_network_args": json.dumps(args if conv else {}),
    }


def _one(values: set[float]) -> str:
    return str(next(iter(values))) if len(values) == 1 else "Dynamic"


def base_model(folder: Path) -> dict[str, str]:
    """By the width of the text that the UNet of a pipeline is made for. Raises ValueError naming a bad config."""
    config = read_config(folder / "unet" / "config.json")
    width = config.get("cross_attention_dim")
    version = {1024: "sd_v2", 2048: "sdxl_base_v1-0"}.get(width if isinstance(width, int) else 0, "sd_v1")
    return {"ss_v2": str(version == "sd_v2"), "ss_base_model_version": version, "ss_sd_model_name": folder.name}
